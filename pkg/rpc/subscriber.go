package rpc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxSubscriberTTL is how long a subscriber token may be good for, from its iat
// to its exp. Such a token is not single use and cannot be taken back one by
// one, so its life is what bounds a stolen one; sessions refresh theirs.
const MaxSubscriberTTL = 10 * time.Minute

const (
	// maxChannels bounds the patterns in a token's ch.
	maxChannels = 64
	// maxChannel bounds one of them: two parts of 128 bytes, each byte escaped,
	// and the kind before them.
	maxChannel = 1 << 10
)

// Subscriber is who a verified subscriber token lets read notifications. It is
// worth nothing at a gRPC port, because it has no roles, as a Caller's token is
// worth nothing at a websocket, because it has.
type Subscriber struct {
	// Subject is the user, and Tenant the user's tenant: sub and tid, each 1 to
	// 128 bytes of UTF-8.
	Subject string
	Tenant  string
	// Channels are the patterns of ch as they stand in the token, 0 to 64. What
	// they mean, and that none reaches beyond the tenant, is judged where
	// channels are known: by the notifier.
	Channels []string
	// Expires is exp. A session outlives it by a minute at most.
	Expires time.Time
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

// Subscriber judges a subscriber token, by the same rules as Verify and with
// the same errors.
func (v *Verifier) Subscriber(token string, now time.Time) (Subscriber, error) {
	known, err := v.verify(token, subscriber, now)
	return known.subscriber, err
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
	if len(channels) > maxChannels {
		return fmt.Errorf("%d channels, at most %d", len(channels), maxChannels)
	}
	for _, pattern := range channels {
		if pattern == "" || len(pattern) > maxChannel || strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("channel %.64q", pattern)
		}
	}
	return nil
}
