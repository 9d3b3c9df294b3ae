// Package plan is what a run of the load generator intends, before anything
// is sent: which flows there are, when each of their jobs is due and what each
// job asks its handler to do.
//
// It is pure. A job is named by its flow and its sequence number, and all else
// about it (due time, tenant, key, duration of its work, payload) follows from
// these two and the seed of the run, so that the generator and its worker
// processes need not tell each other about single jobs, and a finished run can
// recompute every id that it ever sent.
package plan
