package client

import (
	"sync"
	"time"
)

// Bounds of trying again.
const (
	// DefaultRetryBudget is how many retries there are for each first try: at most a tenth more load in the worst hour (reliability O2).
	DefaultRetryBudget = 0.1
	// retryReserve is how many retries are there at once: a client with little traffic has them too.
	retryReserve = 10
	// firstPause is the pause before the second try, doubled up to longestPause and drawn from [half, whole]: a broker's failover takes
	// seconds, a restarted service is back in less than one.
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
	// keyLife is how long the service can tell whether a key of this SDK made a job; a retry after it would be answered KEY_EXPIRED.
	keyLife = 2 * time.Minute
)

// pause is how long to wait before the given retry, the first being 1; at least what the service asked for. r is from [0, 1).
func pause(retry int, asked time.Duration, r float64) time.Duration {
	p := longestPause
	if retry < 7 { // 50 ms × 2⁶ is above the longest
		p = min(firstPause<<(retry-1), longestPause)
	}
	return max(asked, p/2+time.Duration(r*float64(p/2)))
}

// budget bounds retries by first tries. It is a bucket: every first try adds its part, a retry takes one.
type budget struct {
	mu    sync.Mutex
	part  float64
	saved float64
}

func newBudget(part float64) *budget { return &budget{part: part, saved: retryReserve} }

func (b *budget) first(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved = min(b.saved+b.part*float64(n), max(retryReserve, b.part*float64(n)))
}

// retry takes up to n retries and says how many there were.
func (b *budget) retry(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = min(n, int(b.saved))
	b.saved -= float64(n)
	return n
}

// throttle refuses calls here while most tries come back as overloaded, or not at all: a call is refused with the probability
// (tries − 2 × answered) ÷ tries over the last seconds (reliability O3). Refused calls count as tries, so the slower the service answers the
// fewer come; a quarter is always sent, so that a service that recovers is noticed and has all its calls back within two windows.
type throttle struct {
	mu      sync.Mutex
	seconds [throttleWindow]tally
}

// tally counts what ended within one second.
type tally struct {
	at              int64
	tries, answered int
}

const (
	// throttleWindow is in seconds.
	throttleWindow = 5
	// throttleFrom is how many tries the window must hold: a client with little traffic does no harm.
	throttleFrom = 20
	// throttleMost is the largest part of the calls that is refused.
	throttleMost = 0.75
)

// allow says whether a call of n jobs may be sent. r is from [0, 1).
func (t *throttle) allow(now time.Time, n int, r float64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	tries, answered := 0, 0
	for _, s := range t.seconds {
		if now.Unix()-s.at < throttleWindow {
			tries += s.tries
			answered += s.answered
		}
	}
	if tries < throttleFrom || r >= min(float64(tries-2*answered)/float64(tries), throttleMost) {
		return true
	}
	t.second(now).tries += n
	return false
}

// ended counts tries of jobs, and how many of them got a verdict, whichever.
func (t *throttle) ended(now time.Time, tries, answered int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.second(now)
	s.tries += tries
	s.answered += answered
}

func (t *throttle) second(now time.Time) *tally {
	s := &t.seconds[now.Unix()%throttleWindow]
	if s.at != now.Unix() {
		*s = tally{at: now.Unix()}
	}
	return s
}
