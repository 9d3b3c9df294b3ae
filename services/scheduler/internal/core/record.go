package core

import "time"

// Record is what the rooms keep of a job's record while the job is in the engine: Job.Record always holds a *Record. The engine never
// looks at it; intake makes it, api copies Value into the lease, settle copies it into lanes and dead letters.
//
// Invariant: Value is byte-identical to what enqueue wrote, on every hop (I3).
type Record struct {
	Value         []byte // the Job message as it is in the log
	Traceparent   string // creation context, W3C; "" = none
	Tracestate    string
	PayloadSHA256 []byte // points into Value; nil = none
	Moves         int32  // copies made so far
	Origin        Home   // where the first record of the job was
	Moved         bool   // Origin is set: this record is a copy
}

// Past is what former owners have recorded of a job.
type Past struct {
	Settled    bool // it has its outcome
	Attempts   int32
	Reported   Token     // as in Job
	RetryAt    time.Time // zero: at once
	Quarantine time.Time // as in Job
}
