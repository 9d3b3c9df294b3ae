package pages

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/spillway/spillway/pkg/rpc"
)

const (
	// maxPosts is how many POSTs may be under way: people, and tabs that reconnect.
	maxPosts = 32
	// maxBody bounds a POST: 16 KiB of data, escaped as a JSON value within JSON, and
	// names.
	maxBody = 64 << 10
	// maxData is what a notification may hold.
	maxData = 16 << 10
	// maxName bounds the names of users and tenants, as in channels.
	maxName = 128
	// maxChannel bounds a channel: two parts of 128 bytes, every byte escaped.
	maxChannel = 800
	// publishTimeout bounds one Publish: the log answers in milliseconds, or is away.
	publishTimeout = 10 * time.Second
)

// refusal is an error with the status that it is answered with.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

// post guards a handler that takes and gives JSON.
func (p *Pages) post(do func(ctx context.Context, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !ownPage(r) {
			answer(w, http.StatusForbidden, failure{"only for these pages"})
			return
		}
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			answer(w, http.StatusUnsupportedMediaType, failure{"want application/json"})
			return
		}
		select {
		case p.busy <- struct{}{}:
			defer func() { <-p.busy }()
		default:
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, failure{"too many at once"})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			answer(w, http.StatusRequestEntityTooLarge, failure{"too large"})
			return
		}
		result, err := do(r.Context(), body)
		if refused, ok := errors.AsType[refusal](err); ok {
			answer(w, refused.status, failure{refused.text})
			return
		}
		if err != nil {
			status, text := http.StatusBadGateway, err.Error()
			if _, told, ok := strings.Cut(text, " desc = "); ok {
				text = told // of a gRPC status, what it says to people
			}
			if e := rpc.FromError(err); e.Code == codes.InvalidArgument { // whoever typed it can mend it
				status, text = http.StatusBadRequest, cmp.Or(wrong(e.Violations), text)
			}
			answer(w, status, failure{text})
			return
		}
		answer(w, http.StatusOK, result)
	}
}

// wrong says which fields were refused, and why.
func wrong(violations []rpc.Violation) string {
	var fields []string
	for _, v := range violations {
		fields = append(fields, v.Field+": "+v.Description)
	}
	return strings.Join(fields, "; ")
}

// failure is the answer to what did not work.
type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be made"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b)
}

// grant is the answer to POST /session.
type grant struct {
	// Token is for the hello or the refresh of the socket.
	Token string `json:"token"`
	// ExpiresInMS is how long it is good for from now, 0 if it does not say. It is
	// a duration because the browser's clock may be wrong.
	ExpiresInMS int64 `json:"expires_in_ms"`
	// Websocket is where to connect to.
	Websocket string `json:"websocket"`
	// Publish tells whether the page may offer to publish.
	Publish bool `json:"publish"`
}

// session gives a token to whoever looks at the page, as the user that is asked
// for: the pages of one machine know no other users.
func (p *Pages) session(_ context.Context, body []byte) (any, error) {
	var ask struct{ User, Tenant string }
	if json.Unmarshal(body, &ask) != nil || !name(ask.User) || !name(ask.Tenant) {
		return nil, refusal{http.StatusBadRequest, "user and tenant: want 1 to 128 bytes each, without control characters"}
	}
	socket := p.config.Websocket()
	if socketOrigin(socket) == "" {
		return nil, refusal{http.StatusServiceUnavailable, "no notifier runs"}
	}
	token, err := p.config.Token(ask.User, ask.Tenant)
	if err != nil {
		return nil, err
	}
	return grant{Token: token, ExpiresInMS: remaining(token, time.Now()).Milliseconds(), Websocket: socket, Publish: p.config.Publish != nil}, nil
}

// publish publishes what a person has typed.
func (p *Pages) publish(ctx context.Context, body []byte) (any, error) {
	var ask struct {
		Tenant, Channel string
		Data            json.RawMessage
	}
	switch {
	case json.Unmarshal(body, &ask) != nil || !name(ask.Tenant) || ask.Channel == "" || len(ask.Channel) > maxChannel || len(ask.Data) == 0:
		return nil, refusal{http.StatusBadRequest, "tenant, channel and data are required"}
	case len(ask.Data) > maxData:
		return nil, refusal{http.StatusRequestEntityTooLarge, "data: at most 16 KiB"}
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	id, err := p.config.Publish(ctx, Notification{Tenant: ask.Tenant, Channel: ask.Channel, Data: ask.Data})
	if err != nil {
		return nil, err
	}
	return map[string]string{"id": id}, nil
}

// name reports whether a user or a tenant may be called that.
func name(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// remaining is how long a token is good for. Its signature does not matter here:
// it is one of our own, and the notifier judges it.
func remaining(token string, now time.Time) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(b, &claims) != nil || claims.Exp <= 0 {
		return 0
	}
	return max(0, time.UnixMilli(int64(claims.Exp*1000)).Sub(now))
}
