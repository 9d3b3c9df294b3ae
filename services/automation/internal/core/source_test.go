package core

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func ptr[T any](v T) *T { return &v }

func TestQuotaArithmetic(t *testing.T) {
	inf := math.Inf(1)
	for name, c := range map[string]struct {
		quota Quota
		wrong []string
	}{
		"none":         {Quota{}, nil},
		"default":      {*DefaultQuota(), nil},
		"all":          {Quota{ptr(0.1), ptr(int32(1)), ptr(int32(1)), ptr(1e6), ptr(int64(1)), ptr(int64(1e15)), ptr(1.0)}, nil},
		"zero":         {Quota{ptr(0.0), ptr(int32(0)), ptr(int32(0)), ptr(0.0), ptr(int64(0)), ptr(int64(0)), ptr(0.0)}, []string{"rate", "burst", "concurrency", "accept_rate", "backlog_jobs", "backlog_bytes", "publish_rate"}},
		"negative":     {Quota{ptr(-1.0), ptr(int32(-1)), ptr(int32(-1)), ptr(-1.0), ptr(int64(-1)), ptr(int64(-1)), ptr(-1.0)}, []string{"rate", "burst", "concurrency", "accept_rate", "backlog_jobs", "backlog_bytes", "publish_rate"}},
		"not a number": {Quota{Rate: ptr(math.NaN()), AcceptRate: ptr(math.NaN()), PublishRate: ptr(math.NaN())}, []string{"rate", "accept_rate", "publish_rate"}},
		"infinite":     {Quota{Rate: &inf, AcceptRate: ptr(-inf), PublishRate: ptr(math.MaxFloat64)}, []string{"rate", "accept_rate", "publish_rate"}},
		"overflow":     {Quota{Concurrency: ptr(int32(math.MaxInt32)), BacklogJobs: ptr(int64(math.MaxInt64)), BacklogBytes: ptr(int64(math.MinInt64))}, []string{"concurrency", "backlog_jobs", "backlog_bytes"}},
		"burst alone":  {Quota{Burst: ptr(int32(5))}, []string{"burst"}},
	} {
		t.Run(name, func(t *testing.T) {
			var wrong []string
			for _, v := range c.quota.violations("q") {
				wrong = append(wrong, strings.TrimPrefix(v.Field, "q."))
			}
			if !slices.Equal(wrong, c.wrong) {
				t.Errorf("got %v, want %v", wrong, c.wrong)
			}
		})
	}
}

func TestDefaultedIsValid(t *testing.T) {
	s := Source{Name: "crm", Types: []string{"tag"}}.Defaulted()
	if r := s.Validate(); r != nil {
		t.Fatal(r, r.Violations)
	}
	if again := s.Defaulted(); !reflect.DeepEqual(again, s) {
		t.Errorf("defaulted twice: %+v", again)
	}
	for _, c := range []Source{{DefaultPriority: Critical}, {Retry: Retry{Initial: time.Hour}}} { // what pulls other defaults along
		c.Name, c.Types = "crm", []string{"tag"}
		if r := c.Defaulted().Validate(); r != nil {
			t.Error(r.Violations)
		}
	}
}

func TestValidateNamesEveryField(t *testing.T) {
	good := Source{Name: "crm", Types: []string{"tag"}}.Defaulted()
	for field, spoil := range map[string]func(*Source){
		"name":                             func(s *Source) { s.Name = "CRM" },
		"owner":                            func(s *Source) { s.Owner = "a\nb" },
		"description":                      func(s *Source) { s.Description = strings.Repeat("x", 1025) },
		"types":                            func(s *Source) { s.Types = nil },
		"types[0]":                         func(s *Source) { s.Types = []string{""} },
		"types[1]":                         func(s *Source) { s.Types = []string{"a", "a"} },
		"default_priority":                 func(s *Source) { s.DefaultPriority = Critical },
		"max_priority":                     func(s *Source) { s.MaxPriority = 45 },
		"quota.rate":                       func(s *Source) { s.Quota = &Quota{Rate: ptr(math.NaN())} },
		"tenant_quota.each.concurrency":    func(s *Source) { s.Tenants.Each = &Quota{Concurrency: ptr(int32(0))} },
		`tenant_quota.overrides["t"]`:      func(s *Source) { s.Tenants.Overrides = map[string]Quota{"t": {AcceptRate: ptr(1.0)}} },
		`tenant_quota.overrides["t"].rate`: func(s *Source) { s.Tenants.Overrides = map[string]Quota{"t": {Rate: ptr(-1.0)}} },
		`tenant_quota.overrides[""]`:       func(s *Source) { s.Tenants.Overrides = map[string]Quota{"": {}} },
		"weight":                           func(s *Source) { s.Weight = -1 },
		"retry.max_attempts":               func(s *Source) { s.Retry.MaxAttempts = 101 },
		"retry.initial":                    func(s *Source) { s.Retry.Initial = -1 },
		"retry.max":                        func(s *Source) { s.Retry.Max = 1 },
		"retry.multiplier":                 func(s *Source) { s.Retry.Multiplier = math.NaN() },
		"dedupe_window":                    func(s *Source) { s.DedupeWindow = 2 * time.Hour },
		"overflow":                         func(s *Source) { s.Overflow = 9 },
		"runaway.action":                   func(s *Source) { s.Runaway = 9 },
		"runaway.max_depth":                func(s *Source) { s.MaxDepth = 101 },
		"principals[0]":                    func(s *Source) { s.Principals = []string{""} },
		"run_timeout":                      func(s *Source) { s.RunTimeout = -1 },
		"expiry":                           func(s *Source) { s.Expiry = 91 * day },
	} {
		t.Run(field, func(t *testing.T) {
			s := good
			spoil(&s)
			r := s.Validate()
			if r == nil || len(r.Violations) != 1 || r.Violations[0].Field != "source."+field {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestRegisterAndUpdate(t *testing.T) {
	want := Source{Name: "crm", Types: []string{"tag"}}
	have := want.Defaulted()
	have.Revision, have.Created = 7, time.Unix(1, 0)
	if next, write, r := Register(nil, want); !write || r != nil || !next.Same(have) {
		t.Errorf("new: %v, %v", write, r)
	}
	if next, write, r := Register(&have, want); write || r != nil || next.Revision != 7 {
		t.Errorf("the same: %v, %v", write, r)
	}
	other := want
	other.Weight = 5
	if _, _, r := Register(&have, other); r == nil || r.Reason != StaleRevision || r.Metadata["revision"] != "7" {
		t.Errorf("another: %v", r)
	}
	if _, write, r := Update(have, have); write || r != nil {
		t.Errorf("nothing changed: %v, %v", write, r)
	}
	renamed := have
	renamed.Name = "x"
	if _, _, r := Update(have, renamed); r == nil || r.Reason != Invalid {
		t.Errorf("renamed: %v", r)
	}
	if r := have.Seen("6"); r == nil || r.Reason != StaleRevision {
		t.Errorf("etag 6: %v", r)
	}
	if have.Seen("7") != nil || have.Seen("") != nil {
		t.Error("its etag is refused")
	}
}

// FuzzValidate: whatever is written into a source, what gets through has numbers that the engine can reckon with.
func FuzzValidate(f *testing.F) {
	f.Add("crm", "tag", 5.0, int32(10), int64(1000), int32(100), int64(time.Second), 2.0)
	f.Add("*", "", math.NaN(), int32(-1), int64(math.MinInt64), int32(0), int64(math.MaxInt64), math.Inf(1))
	f.Fuzz(func(t *testing.T, name, typ string, rate float64, count int32, size int64, weight int32, d int64, multiplier float64) {
		s := Source{
			Name: name, Types: []string{typ}, Weight: weight, RunTimeout: time.Duration(d), Expiry: time.Duration(d),
			Quota: &Quota{Rate: &rate, Burst: &count, Concurrency: &count, AcceptRate: &rate, BacklogJobs: &size, BacklogBytes: &size, PublishRate: &rate},
			Retry: Retry{Initial: time.Duration(d), Multiplier: multiplier},
		}.Defaulted()
		if s.Validate() != nil {
			return
		}
		q := s.Quota
		if !(*q.Rate > 0) || *q.Rate > maxRate || *q.Burst < 1 || *q.BacklogBytes < 1 || s.Weight < 1 || s.RunTimeout <= 0 || s.Retry.Max < s.Retry.Initial ||
			!(s.Retry.Multiplier >= 1) || s.Retry.Multiplier > 10 {
			t.Errorf("valid: %+v, quota %+v", s, q)
		}
	})
}
