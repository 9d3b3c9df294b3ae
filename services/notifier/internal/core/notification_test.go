package core

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Everything that is wrong is named at once.
func TestCheckNamesAllFields(t *testing.T) {
	bad := time.Duration(-1)
	r := Check(&Draft{Source: "A", Tenant: "\n", Channel: "x", Key: "é", Data: []byte("{"), TTL: &bad, IdempotencyKey: strings.Repeat("a", 129)}, false)
	var fields []string
	for _, v := range r.Violations {
		fields = append(fields, v.Field)
		if v.Description == "" || !strings.Contains(r.Error(), v.Field+" "+v.Description) {
			t.Errorf("%q does not tell of %v", r.Error(), v)
		}
	}
	if want := []string{"channel", "class", "key", "data", "ttl", "source", "tenant", "idempotency_key"}; !slices.Equal(fields, want) || r.Reason != Invalid {
		t.Errorf("named %v, want %v", fields, want)
	}
}

func TestCheckBounds(t *testing.T) {
	ttl := func(d time.Duration) *time.Duration { return &d }
	for _, c := range []struct {
		name   string
		change func(*Draft)
		want   Reason
	}{
		{"as it is", func(*Draft) {}, ""},
		{"the largest data", func(d *Draft) { d.Data = []byte(`"` + strings.Repeat("a", MaxData-2) + `"`) }, ""},
		{"one byte more", func(d *Draft) { d.Data = []byte(`"` + strings.Repeat("a", MaxData-1) + `"`) }, PayloadTooLarge},
		{"no UTF-8", func(d *Draft) { d.Data = []byte("\"\xff\"") }, Invalid},
		{"a second", func(d *Draft) { d.TTL = ttl(time.Second) }, ""}, {"less", func(d *Draft) { d.TTL = ttl(time.Second - 1) }, Invalid},
		{"a day", func(d *Draft) { d.TTL = ttl(24 * time.Hour) }, ""}, {"more", func(d *Draft) { d.TTL = ttl(24*time.Hour + 1) }, Invalid},
		{"a tenant with a space", func(d *Draft) { d.Tenant, d.Channel = "a b", "tenant:a%20b" }, ""},
		{"a tenant of other letters", func(d *Draft) { d.Tenant, d.Channel = "é", "tenant:%C3%A9" }, Invalid},
		{"no tenant", func(d *Draft) { d.Tenant = "" }, Invalid},
		{"another's channel", func(d *Draft) { d.Channel = "user:t2:anna" }, Invalid},
		{"everybody's", func(d *Draft) { d.Channel = "system" }, Invalid},
		{"later", func(d *Draft) { d.Class = State }, Invalid},
	} {
		d := &Draft{Source: "crm", Tenant: "t1", Channel: "tenant:t1", Class: Event, Data: []byte("1")}
		c.change(d)
		if got := reason(Check(d, true)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestClasses(t *testing.T) {
	for word, want := range map[string]Class{"EVENT": Event, "STATE": State, "EPHEMERAL": Ephemeral, "event": NoClass, "": NoClass, "DELIVERY_CLASS_EVENT": NoClass} {
		if got := ParseClass(word); got != want {
			t.Errorf("%q is %d", word, got)
		}
	}
}
