package core

// Budget bounds the bytes of jobs whose produce has not ended. While the broker answers, they are a few hundred kilobytes; when it does not,
// the budget decides who is refused first.
type Budget struct {
	// Limit is the total in bytes.
	Limit int64
	used  int64
}

// sourceShare is the part of the budget that one source may hold: with a quarter, three floods at once leave the fourth quarter to everybody
// else, and a single source still has 6 MiB of the default 24 MiB in flight, 75 times what it holds at 20,000 jobs/s of 1 KiB and 4 ms in batches,
// and six times if each job comes in a call of its own.
const sourceShare = 4

// usable is the part of the budget, in percent, that a priority may fill together with all others: so the lowest is refused first (reliability
// O1), and the last tenth is there for what keeps the product alive.
func usable(p Priority) int64 {
	switch p {
	case Critical:
		return 100
	case High:
		return 90
	case Default:
		return 80
	case Low:
		return 65
	default:
		return 50
	}
}

// admits says whether a job of n bytes fits, given what its source holds already. A source that holds nothing may always hold one job as far
// as its own share is concerned, so that a share smaller than the largest job stops nobody.
func (b *Budget) admits(p Priority, held, n int64) bool {
	return b.used+n <= b.Limit*usable(p)/100 && (held == 0 || held+n <= b.Limit/sourceShare)
}
