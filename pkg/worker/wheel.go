package worker

import "time"

const (
	// wheelStep is how late a context may end. It is small beside the 4 s between a context's end and its lease's.
	wheelStep  = 16 * time.Millisecond
	wheelSlots = 1024 // 16.4 s: a lease without a run timeout below that is put in once per renewal at most
)

// wheel keeps the deadlines of all running jobs, so that a job costs no timer. A deadline beyond its horizon waits in
// the last slot and is put in again from there. Its owner is the worker's mutex.
type wheel struct {
	start  time.Time
	cursor int64 // slots up to and with this one are empty of what was due
	count  int
	slots  [wheelSlots]*lease
}

// add puts l in, to be looked at when at has come. l must not be in the wheel.
func (w *wheel) add(l *lease, at time.Time) {
	slot := int64((at.Sub(w.start) + wheelStep - 1) / wheelStep)
	slot = min(max(slot, w.cursor+1), w.cursor+wheelSlots-1)
	l.slot, l.inWheel = slot, true
	head := &w.slots[slot%wheelSlots]
	l.wheelNext, l.wheelPrev = *head, nil
	if *head != nil {
		(*head).wheelPrev = l
	}
	*head = l
	w.count++
}

// remove takes l out, if it is in.
func (w *wheel) remove(l *lease) {
	if !l.inWheel {
		return
	}
	if l.wheelPrev != nil {
		l.wheelPrev.wheelNext = l.wheelNext
	} else {
		w.slots[l.slot%wheelSlots] = l.wheelNext
	}
	if l.wheelNext != nil {
		l.wheelNext.wheelPrev = l.wheelPrev
	}
	l.wheelNext, l.wheelPrev, l.inWheel = nil, nil, false
	w.count--
}

// advance takes everything out whose slot has come and then hands it to look, which may add it again.
func (w *wheel) advance(now time.Time, look func(*lease)) {
	last := int64(now.Sub(w.start) / wheelStep)
	var due *lease
	// After a long stop of the process every slot is due once, not once per turn of the wheel.
	for n := 0; w.count > 0 && w.cursor < last && n < wheelSlots; n++ {
		w.cursor++
		for l := w.slots[w.cursor%wheelSlots]; l != nil; l = w.slots[w.cursor%wheelSlots] {
			w.remove(l)
			l.wheelNext, due = due, l
		}
	}
	w.cursor = max(w.cursor, last)
	for due != nil {
		l := due
		due, l.wheelNext = l.wheelNext, nil
		look(l)
	}
}

// next is when advance has something to hand out; zero: never.
func (w *wheel) next() time.Time {
	if w.count == 0 {
		return time.Time{}
	}
	for slot := w.cursor + 1; slot < w.cursor+wheelSlots; slot++ {
		if w.slots[slot%wheelSlots] != nil {
			return w.start.Add(time.Duration(slot) * wheelStep)
		}
	}
	return time.Time{}
}
