package rpc_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

type object = map[string]any

// forge makes a token of any header and claims, signed by sign.
func forge(header, claims object, sign func(string) []byte) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
}

// issuer is a key pair on disk whose private half the test can misuse.
type issuer struct {
	*rpc.Signer
	key ed25519.PrivateKey
	kid string
}

func newIssuer(t testing.TB) issuer {
	t.Helper()
	dir := t.TempDir()
	s, err := rpc.OpenSigner(dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "token-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ Kid string } }
	if data, err = os.ReadFile(s.JWKS()); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	return issuer{s, key.(ed25519.PrivateKey), set.Keys[0].Kid}
}

func (i issuer) sign(text string) []byte { return ed25519.Sign(i.key, []byte(text)) }

func (i issuer) header() object { return object{"alg": "EdDSA", "typ": "JWT", "kid": i.kid} }

func claims() object {
	return object{"iss": cluster, "aud": "spillway", "sub": "svc", "roles": []string{"enqueue"}, "exp": now.Add(time.Hour).Unix()}
}

func with(o object, key string, value any) object {
	o = maps.Clone(o)
	if value == nil {
		delete(o, key)
	} else {
		o[key] = value
	}
	return o
}

func verifierAt(t testing.TB, file string, now time.Time) *rpc.Verifier {
	t.Helper()
	v, err := rpc.NewVerifier(file, func() string { return cluster }, now)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestS13TokensOfTheContract: what anybody may sign by the contract is accepted, in all its forms.
func TestS13TokensOfTheContract(t *testing.T) {
	i := newIssuer(t)
	v := verifierAt(t, i.JWKS(), now)
	for name, c := range map[string]object{
		"plain":               claims(),
		"several audiences":   with(claims(), "aud", []string{"x", "spillway"}),
		"expired by 59 s":     with(claims(), "exp", now.Add(-59*time.Second).Unix()),
		"valid in 59 s":       with(claims(), "nbf", now.Add(59*time.Second).Unix()),
		"issued in 59 s":      with(claims(), "iat", now.Add(59*time.Second).Unix()),
		"unknown role beside": with(claims(), "roles", []string{"enqueue", "wizard"}),
	} {
		caller, err := v.Verify(forge(i.header(), c, i.sign), now)
		if err != nil || caller.Subject != "svc" || !caller.Has(rpc.RoleEnqueue) || caller.Has(rpc.RoleAdmin) || caller.Sources != nil || caller.Types != nil {
			t.Errorf("%s: %+v, %v", name, caller, err)
		}
	}
	if _, err := v.Verify(forge(with(i.header(), "typ", "at+jwt"), claims(), i.sign), now); err != nil {
		t.Error(err)
	}
	caller, err := v.Verify(forge(i.header(), with(with(claims(), "types", []string{"crm-*", "x"}), "sources", []string{}), i.sign), now)
	if err != nil || !caller.MayType("crm-1") || !caller.MayType("x") || caller.MayType("xx") || caller.Sources == nil || len(caller.Sources) != 0 {
		t.Errorf("%+v, %v", caller, err)
	}
	token, err := i.Sign(rpc.Claims{Issuer: cluster, Subject: "op", Roles: []rpc.Role{rpc.RoleOperate, rpc.RoleRead}, Types: []string{"t"}, TTL: time.Minute}, now)
	if err != nil {
		t.Fatal(err)
	}
	caller, err = v.Verify(token, now)
	if err != nil || !caller.Has(rpc.RoleOperate) || !caller.Has(rpc.RoleRead) || !caller.MayType("t") || caller.MayType("u") || !caller.Expires.Equal(now.Add(time.Minute)) {
		t.Errorf("%+v, %v", caller, err)
	}
}

func TestS13ForgedAndMisusedTokens(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	v := verifierAt(t, i.JWKS(), now)
	hs256 := func(key []byte) func(string) []byte {
		return func(text string) []byte {
			h := hmac.New(sha256.New, key)
			h.Write([]byte(text))
			return h.Sum(nil)
		}
	}
	h, c := i.header(), claims()
	good := forge(h, c, i.sign)
	parts := strings.Split(good, ".")
	jwks, err := os.ReadFile(i.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	none := func(string) []byte { return nil }
	for name, token := range map[string]string{
		"empty":                    "",
		"alg none":                 forge(with(h, "alg", "none"), c, none),
		"alg None":                 forge(with(h, "alg", "None"), c, none),
		"no signature":             parts[0] + "." + parts[1] + ".",
		"HS256 by public key":      forge(with(h, "alg", "HS256"), c, hs256(i.Public())),
		"HS256 by JWKS":            forge(with(h, "alg", "HS256"), c, hs256(jwks)),
		"other key, same kid":      forge(h, c, other.sign),
		"other key, its own kid":   forge(other.header(), c, other.sign),
		"no kid":                   forge(with(h, "kid", nil), c, i.sign),
		"kid of no text":           forge(with(h, "kid", 7), c, i.sign),
		"kid of a path":            forge(with(h, "kid", "../../"+i.kid), c, i.sign),
		"own key in jwk":           forge(with(h, "jwk", object{"kty": "OKP"}), c, i.sign),
		"jku":                      forge(with(h, "jku", "https://evil.example/jwks"), c, i.sign),
		"x5u":                      forge(with(h, "x5u", "https://evil.example/x"), c, i.sign),
		"x5c":                      forge(with(h, "x5c", []string{"x"}), c, i.sign),
		"crit":                     forge(with(h, "crit", []string{"exp"}), c, i.sign),
		"no typ":                   forge(with(h, "typ", nil), c, i.sign),
		"typ of a logout token":    forge(with(h, "typ", "logout+jwt"), c, i.sign),
		"ID token":                 forge(h, with(with(c, "aud", "some-client"), "nonce", "x"), i.sign),
		"other issuer, same kid":   forge(h, with(c, "iss", "cluster-2"), i.sign),
		"issuer as a prefix":       forge(h, with(c, "iss", cluster+"0"), i.sign),
		"no issuer":                forge(h, with(c, "iss", nil), i.sign),
		"no audience":              forge(h, with(c, "aud", nil), i.sign),
		"other audience":           forge(h, with(c, "aud", "Spillway"), i.sign),
		"expired by 61 s":          forge(h, with(c, "exp", now.Add(-61*time.Second).Unix()), i.sign),
		"no exp":                   forge(h, with(c, "exp", nil), i.sign),
		"exp of text":              forge(h, with(c, "exp", "tomorrow"), i.sign),
		"valid in 61 s":            forge(h, with(c, "nbf", now.Add(61*time.Second).Unix()), i.sign),
		"issued in 61 s":           forge(h, with(c, "iat", now.Add(61*time.Second).Unix()), i.sign),
		"no subject":               forge(h, with(c, "sub", nil), i.sign),
		"long subject":             forge(h, with(c, "sub", strings.Repeat("x", 129)), i.sign),
		"no roles":                 forge(h, with(c, "roles", nil), i.sign),
		"roles of text":            forge(h, with(c, "roles", "admin"), i.sign),
		"pattern with a class":     forge(h, with(c, "sources", []string{"[a-z]*"}), i.sign),
		"pattern with a slash":     forge(h, with(c, "types", []string{"../x"}), i.sign),
		"empty pattern":            forge(h, with(c, "types", []string{""}), i.sign),
		"too many patterns":        forge(h, with(c, "sources", strings.Split(strings.Repeat("a,", 64)+"a", ",")), i.sign),
		"9 KiB":                    forge(h, with(c, "x", strings.Repeat("x", 9<<10)), i.sign),
		"1 MB":                     strings.Repeat("x", 1<<20),
		"padded":                   parts[0] + "=." + parts[1] + "." + parts[2],
		"trailing":                 good + ".x",
		"other claims, same proof": parts[0] + "." + strings.Split(forge(h, with(c, "roles", []string{"admin"}), i.sign), ".")[1] + "." + parts[2],
	} {
		if caller, err := v.Verify(token, now); !errors.Is(err, rpc.ErrToken) {
			t.Errorf("%s: %+v, %v", name, caller, err)
		}
	}
}

// A token that was good once is not good for ever: its times and its issuer are looked at each time.
func TestVerifiedTokensStillExpire(t *testing.T) {
	i, id := newIssuer(t), cluster
	v, err := rpc.NewVerifier(i.JWKS(), func() string { return id }, now)
	if err != nil {
		t.Fatal(err)
	}
	token := forge(i.header(), with(claims(), "nbf", now.Unix()), i.sign)
	for at, ok := range map[time.Duration]bool{0: true, time.Hour + 59*time.Second: true, time.Hour + time.Minute: false, -61 * time.Second: false} {
		if _, err := v.Verify(token, now.Add(at)); (err == nil) != ok {
			t.Errorf("after %v: %v", at, err)
		}
	}
	id = "cluster-2"
	if _, err := v.Verify(token, now); !errors.Is(err, rpc.ErrToken) {
		t.Errorf("of another cluster: %v", err)
	}
	id = ""
	if _, err := v.Verify(token, now); !errors.Is(err, rpc.ErrNotReady) {
		t.Errorf("before the cluster id is known: %v", err)
	}
}

// TestS14KeyFile: a change is seen within a minute, a removed key stops counting, an unreadable file is survived for an hour.
func TestS14KeyFile(t *testing.T) {
	first, second := newIssuer(t), newIssuer(t)
	file := filepath.Join(t.TempDir(), "keys")
	put := func(from string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(first.JWKS())
	v := verifierAt(t, file, now)
	good := func(i issuer, at time.Duration) bool {
		t.Helper()
		_, err := v.Verify(forge(i.header(), with(claims(), "exp", now.Add(9*time.Hour).Unix()), i.sign), now.Add(at))
		return err == nil
	}
	if !good(first, 0) || good(second, 0) {
		t.Error("before the change")
	}
	put(second.JWKS())
	if good(second, 59*time.Second) {
		t.Error("the file is looked at more often than once a minute")
	}
	if !good(second, time.Minute) || good(first, time.Minute) {
		t.Error("after the change: a removed key must not be remembered")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if !good(second, 30*time.Minute) || !good(second, 60*time.Minute) {
		t.Error("an outage ends service at once")
	}
	if good(second, 61*time.Minute) {
		t.Error("stale keys serve without end")
	}
	put(second.JWKS())
	if !good(second, 63*time.Minute) {
		t.Error("does not come back")
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	i := newIssuer(t)
	good, err := os.ReadFile(i.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSuffix(strings.TrimSpace(string(good)), "]\n}")
	for name, text := range map[string]string{
		"empty": "", "no JSON": "x", "no keys": `{"keys":[]}`, "RSA only": `{"keys":[{"kty":"RSA","kid":"a","n":"x","e":"AQAB"}]}`,
		"symmetric": `{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}`, "short key": `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA"}]}`,
		"for encryption": strings.Replace(string(good), `"sig"`, `"enc"`, 1), "no kid": strings.Replace(string(good), i.kid, "", 1),
		"twice": key + "," + key[strings.Index(key, "[")+1:] + "]}", "huge": strings.Repeat(" ", 64<<10) + string(good),
	} {
		file := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := rpc.NewVerifier(file, func() string { return cluster }, now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := rpc.NewVerifier(filepath.Join(t.TempDir(), "none"), func() string { return cluster }, now); err == nil {
		t.Error("an absent file is accepted")
	}
}

func TestSignerKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	a, err := rpc.OpenSigner(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := rpc.OpenSigner(dir)
	if err != nil || !a.Public().Equal(b.Public()) {
		t.Fatal("a second key", err)
	}
	for _, name := range []string{"token-key.pem", rpc.JWKSFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if data, _ := os.ReadFile(b.JWKS()); strings.Contains(string(data), `"d"`) {
		t.Error("the JWKS holds a private key")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
	if err := os.Chmod(filepath.Join(dir, "token-key.pem"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.OpenSigner(dir); err == nil {
		t.Error("a key that others may read is used")
	}
	for _, c := range []rpc.Claims{{}, {Issuer: "i", Subject: "s", TTL: 1}, {Issuer: "i", Roles: []rpc.Role{"read"}, TTL: 1}, {Issuer: "i", Subject: "s", Roles: []rpc.Role{"read"}}} {
		if _, err := a.Sign(c, now); err == nil {
			t.Errorf("signs %+v", c)
		}
	}
}

func FuzzVerify(f *testing.F) {
	i := newIssuer(f)
	v := verifierAt(f, i.JWKS(), now)
	good := forge(i.header(), claims(), i.sign)
	f.Add(good)
	f.Add(forge(with(i.header(), "alg", "none"), claims(), func(string) []byte { return nil }))
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.Verify(token, now); err == nil && token != good {
			t.Fatalf("accepted %q", token)
		} else if err != nil && !errors.Is(err, rpc.ErrToken) {
			t.Fatal(err)
		}
	})
}

// The signature is checked for the first use of a token only; the rest of a call's check must stay far below that.
func TestVerifiedTokensAreRemembered(t *testing.T) {
	i := newIssuer(t)
	v := verifierAt(t, i.JWKS(), now)
	took := func(token func(int) string) time.Duration {
		tokens := make([]string, 300)
		for n := range tokens {
			tokens[n] = token(n)
		}
		began := time.Now()
		for _, token := range tokens {
			if _, err := v.Verify(token, now); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	fresh := took(func(n int) string { return forge(i.header(), with(claims(), "sub", fmt.Sprint("s", n)), i.sign) })
	known := took(func(int) string { return forge(i.header(), with(claims(), "sub", "s0"), i.sign) })
	if known*4 > fresh {
		t.Errorf("300 fresh tokens took %v, one token 300 times %v", fresh, known)
	}
}
