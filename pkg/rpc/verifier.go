package rpc

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxToken bounds a token before anything of it is parsed. Ours have 500
	// bytes; headers altogether may have 16 KiB.
	maxToken = 8 << 10
	// leeway covers clocks that differ, on exp, nbf and iat.
	leeway = time.Minute
	// refreshKeys is how often the JWKS file is looked at, by whatever call
	// comes next. A flood of unknown kids causes no more looks than that.
	refreshKeys = time.Minute
	// staleKeys is how long the last good keys serve when the file has become
	// unreadable.
	staleKeys = time.Hour
	// maxVerified bounds the tokens whose signature need not be checked again
	// (about 1 KiB each). Only good tokens are remembered, so strangers cannot
	// fill it.
	maxVerified = 2048

	maxNames = 64 // roles, sources, types or channels in one token
	maxName  = 128
	// maxChannel bounds a pattern of channels: two parts of 128 bytes, each byte
	// escaped, and the kind before them.
	maxChannel = 1 << 10
)

// MaxSubscriberTTL is how long a subscriber token may be good for, from its iat
// to its exp. Such a token is not single use and cannot be taken back one by
// one, so its life is what bounds a stolen one; sessions refresh theirs.
const MaxSubscriberTTL = 10 * time.Minute

var (
	// ErrToken means that a token is not acceptable. Which check failed is in
	// the text, for logs; callers are told nothing.
	ErrToken = errors.New("token refused")
	// ErrNotReady means that tokens cannot be judged yet: the cluster id is
	// not known, or the keys have been unreadable for too long.
	ErrNotReady = errors.New("tokens cannot be verified yet")
)

// Verifier judges tokens by a local JWKS file. It is safe for concurrent use
// and starts no goroutine.
type Verifier struct {
	file   string
	issuer func() string
	parser *jwt.Parser

	mu       sync.Mutex
	keys     map[string]ed25519.PublicKey
	raw      []byte    // the file that keys came from
	looked   time.Time // when the file was last looked at
	good     time.Time // when it was last read well
	verified map[[sha256.Size]byte]verified
}

// kind is what a token is for. A token of one kind is never one of the other:
// roles make a service token, and a subscriber token must have none.
type kind string

const (
	service    kind = "service"
	subscriber kind = "subscriber"
)

// verified is a token whose signature and claims were good; only its times,
// its issuer and the keys can make it bad later. Keys that change empty the
// map.
type verified struct {
	kind       kind
	caller     Caller     // of a service token
	subscriber Subscriber // of a subscriber token
	issuer     string
	from       time.Time // nbf, zero when absent
	expires    time.Time
}

// NewVerifier reads the JWKS file (SPILLWAY_TOKEN_KEYS), which must be sound at
// start; later changes are seen within a minute. issuer is the cluster id, or
// "" as long as it is not known: then every token is answered ErrNotReady.
func NewVerifier(file string, issuer func() string, now time.Time) (*Verifier, error) {
	v := &Verifier{
		file: file, issuer: issuer, verified: make(map[[sha256.Size]byte]verified),
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
			jwt.WithStrictDecoding(),
			jwt.WithoutClaimsValidation(), // below, with the caller's now
		),
	}
	if err := v.load(now); err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	return v, nil
}

// Verify judges a service token: ErrToken when it is not acceptable,
// ErrNotReady when that cannot be told now.
func (v *Verifier) Verify(token string, now time.Time) (Caller, error) {
	known, err := v.verify(token, service, now)
	return known.caller, err
}

// Subscriber judges a subscriber token, by the same rules as Verify and with
// the same errors.
func (v *Verifier) Subscriber(token string, now time.Time) (Subscriber, error) {
	known, err := v.verify(token, subscriber, now)
	return known.subscriber, err
}

// verify is the one way of every token.
func (v *Verifier) verify(token string, want kind, now time.Time) (verified, error) {
	if len(token) > maxToken {
		return verified{}, refuse("%d bytes long", len(token))
	}
	if !isToken(token) {
		return verified{}, refuse("bytes that no token has")
	}
	issuer := v.issuer()
	if issuer == "" {
		return verified{}, fmt.Errorf("%w: cluster id is not known", ErrNotReady)
	}
	id := sha256.Sum256([]byte(token))
	keys, known, err := v.look(id, now)
	if err != nil {
		return verified{}, err
	}
	if known.issuer != issuer {
		if known, err = v.judge(token, issuer, want, keys, now); err != nil {
			return verified{}, err
		}
		v.remember(id, known)
	}
	switch {
	case known.kind != want:
		return verified{}, refuse("a %s token", known.kind)
	case !known.from.IsZero() && now.Add(leeway).Before(known.from):
		return verified{}, refuse("not valid yet")
	case !now.Before(known.expires.Add(leeway)):
		return verified{}, refuse("expired")
	}
	return known, nil
}

// look returns the current keys and what is known of a token, and reads the
// file again when it is time to.
func (v *Verifier) look(id [sha256.Size]byte, now time.Time) (map[string]ed25519.PublicKey, verified, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.Sub(v.looked) >= refreshKeys {
		if err := v.load(now); err != nil && now.Sub(v.good) >= staleKeys {
			return nil, verified{}, fmt.Errorf("%w: keys unreadable since %s: %w", ErrNotReady, v.good.Format(time.RFC3339), err)
		}
	}
	if now.Sub(v.good) >= staleKeys { // unreadable, and not yet time to look again
		return nil, verified{}, fmt.Errorf("%w: keys unreadable since %s", ErrNotReady, v.good.Format(time.RFC3339))
	}
	return v.keys, v.verified[id], nil
}

// load reads the file; on an error the old keys stay. The caller holds mu or is
// alone.
func (v *Verifier) load(now time.Time) error {
	v.looked = now
	raw, err := readJWKS(v.file)
	if err != nil {
		return err
	}
	if v.keys == nil || !bytes.Equal(raw, v.raw) {
		keys, err := parseJWKS(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", v.file, err)
		}
		v.keys, v.raw = keys, raw
		clear(v.verified)
	}
	v.good = now
	return nil
}

func (v *Verifier) remember(id [sha256.Size]byte, known verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.verified) >= maxVerified {
		clear(v.verified) // the few that are in use come back at once
	}
	v.verified[id] = known
}

type tokenClaims struct {
	jwt.RegisteredClaims
	Roles   []string `json:"roles"`
	Sources []string `json:"sources"`
	Types   []string `json:"types"`

	Tenant   string   `json:"tid"`
	Channels []string `json:"ch"`
}

// judge checks everything of a token that does not change with time, and the
// signature last of what costs.
func (v *Verifier) judge(token, issuer string, want kind, keys map[string]ed25519.PublicKey, now time.Time) (verified, error) {
	var claims tokenClaims
	parsed, err := v.parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		if err := checkHeader(t.Header); err != nil {
			return nil, err
		}
		kid, _ := t.Header["kid"].(string)
		key, ok := keys[kid]
		if !ok {
			return nil, errors.New("unknown kid")
		}
		return key, nil
	})
	if err != nil || !parsed.Valid {
		return verified{}, refuse("%w", err)
	}
	switch {
	case claims.Issuer != issuer:
		return verified{}, refuse("other issuer")
	case !slices.Contains(claims.Audience, Audience):
		return verified{}, refuse("other audience")
	case claims.ExpiresAt == nil:
		return verified{}, refuse("no exp")
	case claims.IssuedAt != nil && now.Add(leeway).Before(claims.IssuedAt.Time):
		return verified{}, refuse("issued in the future")
	case claims.Subject == "" || len(claims.Subject) > maxName:
		return verified{}, refuse("sub of %d bytes", len(claims.Subject))
	}
	known := verified{kind: want, issuer: issuer, expires: claims.ExpiresAt.Time}
	if claims.NotBefore != nil {
		known.from = claims.NotBefore.Time
	}
	if want == subscriber {
		known.subscriber, err = claims.subscriber()
	} else {
		known.caller, err = claims.caller()
	}
	return known, err
}

// caller checks the claims of a service token.
func (c tokenClaims) caller() (Caller, error) {
	if len(c.Roles) == 0 || len(c.Roles) > maxNames {
		return Caller{}, refuse("%d roles", len(c.Roles))
	}
	for _, pattern := range slices.Concat(c.Sources, c.Types) {
		if !isPattern(pattern) {
			return Caller{}, refuse("pattern %.64q", pattern)
		}
	}
	if len(c.Sources) > maxNames || len(c.Types) > maxNames {
		return Caller{}, refuse("more than %d patterns", maxNames)
	}
	return Caller{Subject: c.Subject, Roles: c.Roles, Sources: c.Sources, Types: c.Types, Expires: c.ExpiresAt.Time}, nil
}

// subscriber checks the claims of a subscriber token.
func (c tokenClaims) subscriber() (Subscriber, error) {
	switch {
	case c.Roles != nil || c.Sources != nil || c.Types != nil:
		return Subscriber{}, refuse("a service token")
	case c.IssuedAt == nil:
		return Subscriber{}, refuse("no iat")
	case c.ExpiresAt.Sub(c.IssuedAt.Time) > MaxSubscriberTTL:
		return Subscriber{}, refuse("good for %v", c.ExpiresAt.Sub(c.IssuedAt.Time))
	}
	if err := checkSubscriber(c.Tenant, c.Channels); err != nil {
		return Subscriber{}, refuse("%w", err)
	}
	return Subscriber{Subject: c.Subject, Tenant: c.Tenant, Channels: slices.Clip(c.Channels), Expires: c.ExpiresAt.Time}, nil
}

// checkSubscriber holds a tenant and patterns to what a channel can be at all.
func checkSubscriber(tenant string, channels []string) error {
	if tenant == "" || len(tenant) > maxName {
		return fmt.Errorf("tid of %d bytes", len(tenant))
	}
	if len(channels) > maxNames {
		return fmt.Errorf("%d channels, at most %d", len(channels), maxNames)
	}
	for _, pattern := range channels {
		if pattern == "" || len(pattern) > maxChannel || strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("channel %.64q", pattern)
		}
	}
	return nil
}

// checkHeader refuses what RFC 8725 warns of: keys that the token brings or
// points to, extensions that we do not know, and tokens of another type.
func checkHeader(header map[string]any) error {
	for _, name := range []string{"jku", "jwk", "x5u", "x5c", "crit"} {
		if _, present := header[name]; present {
			return fmt.Errorf("header %s is not accepted", name)
		}
	}
	typ, _ := header["typ"].(string)
	switch strings.ToLower(typ) {
	case "jwt", tokenType, "application/" + tokenType:
		return nil
	}
	return errors.New("typ is not that of an access token")
}

// isToken holds tokens to the one spelling that they have: base64 as Go reads it
// passes over line breaks, also when it is strict, and each spelling of a good
// token would cost a signature and a place among those that are remembered.
func isToken(token string) bool {
	for _, c := range []byte(token) {
		ok := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}

// isPattern holds patterns to the characters of names, and *.
func isPattern(pattern string) bool {
	if pattern == "" || len(pattern) > maxName {
		return false
	}
	for _, c := range []byte(pattern) {
		ok := 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' || c == '*'
		if !ok {
			return false
		}
	}
	return true
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrToken, fmt.Errorf(format, args...))
}
