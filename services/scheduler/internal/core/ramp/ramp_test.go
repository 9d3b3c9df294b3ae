package ramp

import (
	"math"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin float64
		after time.Duration
		rate  float64
		rises time.Duration
	}{
		{"at once", 10, 0, 10, Step},
		{"until the first step", 10, Step - 1, 10, Step},
		{"from the first step on", 10, Step, 20, 2 * Step},
		{"the fifth", 10, 5*Step + 1, 320, 6 * Step},
		{"over", 10, 17 * Step, 0, 0},
		{"over at once", End, 0, 0, 0},
		{"without an end", math.Inf(1), 0, 0, 0},
		{"hardly any", 1e-300, Longest - 1, 0x1p59 * 1e-300, Longest},
		{"hardly any, at last", 1e-300, Longest, 0, 0},
		{"long ago", 10, math.MaxInt64, 0, 0},
	} {
		if rate, rises := Rate(c.begin, c.after); rate != c.rate || rises != c.rises {
			t.Errorf("%s: %v until %v, want %v until %v", c.name, rate, rises, c.rate, c.rises)
		}
	}
}

func TestBurst(t *testing.T) {
	for rate, want := range map[float64]int32{0.001: 2, 40: 2, 60: 3, 2000: 100, End: 50_000} {
		if n := Burst(rate); n != want {
			t.Errorf("at %v/s: %d, want %d", rate, n, want)
		}
	}
}
