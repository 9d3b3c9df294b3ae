package rpc

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/spillway/spillway/pkg/config"
)

// Audience is the aud of every token.
const Audience = "spillway"

const (
	// tokenType marks access tokens (RFC 9068), so that a token made for
	// another purpose by the same issuer is not taken for one.
	tokenType = "at+jwt"

	signingKeyFile = "token-key.pem"
	// JWKSFile is the name, in a Signer's directory, of the public keys that
	// SPILLWAY_TOKEN_KEYS points to.
	JWKSFile = "tokens.jwks"
)

// Claims is what a new token says.
type Claims struct {
	// Issuer is the cluster id.
	Issuer  string
	Subject string
	Roles   []Role
	// Sources and Types are patterns; nil: all.
	Sources []string
	Types   []string
	// TTL is how long the token is good for; it must be positive.
	TTL time.Duration
}

// Signer makes tokens. dev has one; in a cluster it belongs to whoever runs
// the installation, and no service ever holds one.
type Signer struct {
	key ed25519.PrivateKey
	dir string
}

// OpenSigner reads the signing key in dir, or makes one on first use, and
// (re)writes the JWKS beside it. Both files are 0600; dir must exist.
func OpenSigner(dir string) (*Signer, error) {
	name := filepath.Join(dir, signingKeyFile)
	data, err := config.ReadSecretFile(name)
	var key ed25519.PrivateKey
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if key, err = newKey(); err != nil {
			return nil, fmt.Errorf("make signing key: %w", err)
		}
		if data, err = encodePrivate(key); err == nil {
			err = writeWhole(name, data)
		}
		if err != nil {
			return nil, fmt.Errorf("write signing key: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("read signing key: %w", err)
	default:
		if key, err = parsePrivate(data); err != nil {
			return nil, fmt.Errorf("read signing key %s: %w", name, err)
		}
	}
	s := &Signer{key: key, dir: dir}
	public, err := encodeJWKS(s.Public())
	if err == nil {
		err = writeWhole(s.JWKS(), append(public, '\n'))
	}
	if err != nil {
		return nil, fmt.Errorf("write JWKS: %w", err)
	}
	return s, nil
}

// JWKS is the path of the public keys.
func (s *Signer) JWKS() string { return filepath.Join(s.dir, JWKSFile) }

// Public is the key that verifies this Signer's tokens.
func (s *Signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// Sign makes a token that is good from now on.
func (s *Signer) Sign(c Claims, now time.Time) (string, error) {
	if c.Issuer == "" || c.Subject == "" || len(c.Roles) == 0 || c.TTL <= 0 {
		return "", errors.New("a token needs issuer, subject, a role and a TTL")
	}
	claims := jwt.MapClaims{
		"iss": c.Issuer, "aud": Audience, "sub": c.Subject, "roles": c.Roles,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(c.TTL).Unix(),
	}
	if c.Sources != nil {
		claims["sources"] = c.Sources
	}
	if c.Types != nil {
		claims["types"] = c.Types
	}
	return s.sign(claims)
}

// sign is the form of every token.
func (s *Signer) sign(claims jwt.MapClaims) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["typ"] = tokenType
	token.Header["kid"] = keyID(s.Public())
	return token.SignedString(s.key)
}

// SubscriberClaims is what a new subscriber token says.
type SubscriberClaims struct {
	// Issuer is the cluster id.
	Issuer string
	// Subject is the user, Tenant the user's tenant.
	Subject string
	Tenant  string
	// Channels are patterns of channels, such as user:t1:anna or topic:t1:*.
	Channels []string
	// TTL is how long the token is good for: more than 0, at most
	// MaxSubscriberTTL.
	TTL time.Duration
}

// SignSubscriber makes a subscriber token that is good from now on. It refuses
// what Subscriber would refuse.
func (s *Signer) SignSubscriber(c SubscriberClaims, now time.Time) (string, error) {
	switch {
	case c.Issuer == "":
		return "", errors.New("a subscriber token needs an issuer")
	case c.TTL < time.Second || c.TTL > MaxSubscriberTTL:
		return "", fmt.Errorf("a subscriber token is good for 1 s to %v, not %v", MaxSubscriberTTL, c.TTL)
	case c.Subject == "" || len(c.Subject) > maxName:
		return "", fmt.Errorf("a subscriber token needs a subject of 1 to %d bytes", maxName)
	}
	if c.Channels == nil {
		c.Channels = []string{} // ch is written, so that its absence is never taken for all
	}
	if err := checkSubscriber(c.Tenant, c.Channels); err != nil {
		return "", err
	}
	token, err := s.sign(jwt.MapClaims{
		"iss": c.Issuer, "aud": Audience, "sub": c.Subject, "tid": c.Tenant, "ch": c.Channels,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Unix() + int64(c.TTL/time.Second),
	})
	if len(token) > maxToken {
		return "", fmt.Errorf("a token of %d bytes, at most %d: name fewer channels", len(token), maxToken)
	}
	return token, err
}

// ReadTokenFile reads a token from a file that only its owner may read, as
// SPILLWAY_TOKEN_FILE names one. White space around it is dropped.
func ReadTokenFile(name string) (string, error) {
	data, err := config.ReadSecretFile(name)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("token file: %s is empty", name)
	}
	return token, nil
}
