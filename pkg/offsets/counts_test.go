package offsets

import (
	"errors"
	"testing"
)

// TestGoldenCounts: the text of the counts is part of format 6; these lines may be added to, never changed.
func TestGoldenCounts(t *testing.T) {
	for text, want := range map[string]Counts{
		"0,0,0,0,0,0,0":                        {},
		"1,2,3,4,5,6,7":                        {1, 2, 3, 4, 5, 6, 7},
		"9223372036854775807,0,0,0,0,0,123456": {Succeeded: 1<<63 - 1, Fence: 123456},
	} {
		if got := want.String(); got != text {
			t.Errorf("%+v is written as %q, want %q", want, got, text)
		}
		if got, err := ParseCounts(text); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
		if m, err := DecodeMetadata("1;;-;" + text + ";"); err != nil || m.Counts != text {
			t.Errorf("%q does not fit into the metadata: %v", text, err)
		}
	}
}

// TestCountsOfOtherReleases: the first release wrote six numbers, and a later one may write more than seven.
func TestCountsOfOtherReleases(t *testing.T) {
	for text, want := range map[string]Counts{
		"":                          {},
		"1,2,3,4,5,6":               {1, 2, 3, 4, 5, 6, 0},
		"1,2,3,4,5,6,7,8,not a one": {1, 2, 3, 4, 5, 6, 7},
	} {
		if got, err := ParseCounts(text); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"1", "-", "1,2,3,4,5", "a,2,3,4,5,6", "-1,2,3,4,5,6", "1,2,3,4,5,", "1,2,3,4,5,6,-7", "1,2,3,4,5,6,x", "1,2,3,4,5,9223372036854775808"} {
		if got, err := ParseCounts(bad); !errors.Is(err, ErrMetadata) || got != (Counts{}) {
			t.Errorf("%q is read as %+v, %v", bad, got, err)
		}
	}
}
