package keyring

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
)

// Subscriber is one whose token is to be signed: somebody who listens to
// notifications.
type Subscriber struct {
	User, Tenant string
	// Channels are patterns of the channels that the token opens.
	Channels []string
	// File is where it goes, mode 0600; "": nowhere.
	File string
}

// SignSubscriber signs a subscriber's token for ttl, at most ten minutes, and
// writes it as Sign does.
func SignSubscriber(signer *rpc.Signer, s Subscriber, issuer string, ttl time.Duration, now time.Time) (string, error) {
	token, err := signer.SignSubscriber(rpc.SubscriberClaims{Issuer: issuer, Subject: s.User, Tenant: s.Tenant, Channels: s.Channels, TTL: ttl}, now)
	if err != nil {
		return "", fmt.Errorf("sign token of subscriber %s of %s: %w", s.User, s.Tenant, err)
	}
	if s.File == "" {
		return token, nil
	}
	if err := write(s.File, []byte(token+"\n")); err != nil {
		return "", fmt.Errorf("token of subscriber %s of %s: %w", s.User, s.Tenant, err)
	}
	return token, nil
}

// Channels are the patterns of a subscriber who may listen to what is for
// everybody of a tenant, for that user, and to all topics of the tenant. Names
// are spelled as parts of channels are.
func Channels(user, tenant string) []string {
	u, t := part(user), part(tenant)
	return []string{"tenant:" + t, "user:" + t + ":" + u, "topic:" + t + ":*"}
}

// part spells a name as a part of a channel.
func part(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("._-", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// SubscriberTTL is how long a subscriber's token is good for: the longest that a
// notifier takes.
const SubscriberTTL = rpc.MaxSubscriberTTL

// printed stands for the file of a token that is printed instead.
const printed = "-"

// parseSubscribers reads USER@TENANT:FILE.
func parseSubscribers(specs, channels []string) ([]Subscriber, error) {
	if len(channels) > 0 && len(specs) == 0 {
		return nil, fmt.Errorf("--channel is of subscribers, and there is no --subscriber")
	}
	var list []Subscriber
	for _, spec := range specs {
		who, file, found := strings.Cut(spec, ":")
		user, tenant, both := strings.Cut(who, "@")
		if !found || !both || user == "" || tenant == "" || file == "" {
			return nil, fmt.Errorf("--subscriber %q: want USER@TENANT:FILE", spec)
		}
		s := Subscriber{User: user, Tenant: tenant, Channels: channels, File: file}
		if len(channels) == 0 {
			s.Channels = Channels(user, tenant)
		}
		list = append(list, s)
	}
	return list, nil
}

// signSubscribers signs all tokens and says where they are, or prints them.
func signSubscribers(out io.Writer, signer *rpc.Signer, list []Subscriber, issuer string, now time.Time) error {
	for _, s := range list {
		line := fmt.Sprintf("%s@%s until %s: %s", s.User, s.Tenant, now.Add(SubscriberTTL).UTC().Format(time.RFC3339), s.File)
		toPrint := s.File == printed
		if toPrint {
			s.File = ""
		}
		token, err := SignSubscriber(signer, s, issuer, SubscriberTTL, now)
		if err != nil {
			return err
		}
		if toPrint {
			line = token
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}
