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

// throttle refuses calls here while most of what is sent comes back as overloaded or does not come back: of the last ten seconds, calls are
// refused with the probability (requests − 2 × answered) ÷ (requests + 1). So at least every second call is still sent until nothing is
// answered at all, and a service that recovers is noticed at once.
type throttle struct {
	mu      sync.Mutex
	seconds [throttleWindow]struct {
		at                 int64
		requests, answered int
	}
}

// throttleWindow is in seconds: how fast a client slows down, and comes back.
const throttleWindow = 10

// allow says whether a call of n jobs may be sent; it counts as a request either way. r is from [0, 1).
func (t *throttle) allow(now time.Time, n int, r float64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	requests, answered := 0, 0
	for _, s := range t.seconds {
		if now.Unix()-s.at < throttleWindow {
			requests += s.requests
			answered += s.answered
		}
	}
	t.second(now).requests += n
	return r >= float64(requests-2*answered)/float64(requests+1)
}

// answered counts jobs that got a verdict, whichever.
func (t *throttle) answered(now time.Time, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.second(now).answered += n
}

func (t *throttle) second(now time.Time) *struct {
	at                 int64
	requests, answered int
} {
	s := &t.seconds[now.Unix()%throttleWindow]
	if s.at != now.Unix() {
		s.at, s.requests, s.answered = now.Unix(), 0, 0
	}
	return s
}
