package dev

import (
	"context"
	"path/filepath"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/keyring"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/rpc"
)

const (
	keysDir = "keys"
	// tokenTTL is how long dev's tokens are good for. They are signed anew at
	// every start, and a dev that runs longer signs again before they expire.
	tokenTTL = 30 * 24 * time.Hour
	// tokenRenewal is when it does.
	tokenRenewal = tokenTTL / 2
	// subscriberRenewal is when a subscriber's token is signed again: when half
	// of it is over.
	subscriberRenewal = keyring.SubscriberTTL / 2
	// renewalPoll is how often the clock on the wall is asked whether one is
	// due: timers stand still while a machine sleeps, tokens do not.
	renewalPoll = 10 * time.Second
)

// The subscriber that dev signs for: a user of a tenant who may listen to what
// is for everybody there, for that user, and to every topic.
const (
	subscriberName   = "subscriber"
	subscriberUser   = "dev"
	subscriberTenant = "demo"
)

var subscriberChannels = []string{"tenant:demo", "user:demo:*", "topic:demo:*"}

// keys are a data directory's secrets, made on first use, all 0600.
type keys struct {
	signer  *rpc.Signer
	macPath string
	mac     []byte
}

func openKeys(dataDir string) (keys, error) {
	dir := filepath.Join(dataDir, keysDir)
	r, err := keyring.Open(dir, dir)
	if err != nil {
		return keys{}, err
	}
	return keys{signer: r.Signer, macPath: r.MACFile, mac: r.MAC}, nil
}

// tokens signs what dev hands out and writes each token to <name>.token beside
// the keys, for programs that take a file. issuer is the cluster's id.
func (k keys) tokens(issuer string, now time.Time) (readyfile.Tokens, error) {
	var t readyfile.Tokens
	for _, want := range []struct {
		to      *string
		subject string
		roles   []rpc.Role
	}{
		{&t.Operator, "operator", []rpc.Role{rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin}},
		{&t.Worker, "worker", []rpc.Role{rpc.RoleWorker}},
		{&t.Service, "service", []rpc.Role{rpc.RoleEnqueue, rpc.RolePublish}},
	} {
		token, err := keyring.Sign(k.signer, keyring.Token{Subject: want.subject, Roles: want.roles, File: k.tokenFile(want.subject)}, issuer, tokenTTL, now)
		if err != nil {
			return t, err
		}
		*want.to = token
	}
	var err error
	t.Subscriber, err = k.subscriber(issuer, now)
	return t, err
}

// subscriber signs the token of a subscriber, as tokens does the others.
func (k keys) subscriber(issuer string, now time.Time) (string, error) {
	return keyring.SignSubscriber(k.signer, keyring.Subscriber{
		User: subscriberUser, Tenant: subscriberTenant, Channels: subscriberChannels, File: k.tokenFile(subscriberName),
	}, issuer, keyring.SubscriberTTL, now)
}

// tokenFile is where a token lies.
func (k keys) tokenFile(subject string) string {
	return filepath.Join(filepath.Dir(k.macPath), subject+".token")
}

// renewTokens signs again before tokens expire, until Stop.
func (d *Dev) renewTokens(cluster string) {
	ctx, cancel := context.WithCancel(context.Background())
	d.renewal = cancel
	signed := renewals{all: time.Now(), subscriber: time.Now()}
	d.running.Go(func() {
		tick := time.NewTicker(renewalPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				changed, err := d.renew(cluster, &signed, now)
				switch {
				case err != nil:
					d.log.Error("tokens", "error", err.Error())
				case changed:
					d.changed()
				}
			}
		}
	})
}

// renewals are when tokens were signed last.
type renewals struct{ all, subscriber time.Time }

// renew signs what is due by the clock on the wall, and says whether anything
// was.
func (d *Dev) renew(cluster string, signed *renewals, now time.Time) (bool, error) {
	now = now.Round(0) // without the monotonic reading, which stands still while the machine sleeps
	d.mu.Lock()
	tokens := d.file.Tokens
	d.mu.Unlock()
	var err error
	switch {
	case now.Sub(signed.all.Round(0)) >= tokenRenewal:
		if tokens, err = d.keys.tokens(cluster, now); err == nil {
			*signed = renewals{all: now, subscriber: now}
		}
	case now.Sub(signed.subscriber.Round(0)) >= subscriberRenewal:
		if tokens.Subscriber, err = d.keys.subscriber(cluster, now); err == nil {
			signed.subscriber = now
		}
	default:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	d.file.Tokens = tokens
	d.mu.Unlock()
	return true, nil
}
