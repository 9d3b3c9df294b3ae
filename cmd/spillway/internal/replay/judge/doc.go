// Package judge is what a replay finds out, before and after it runs: which
// traffic there is, when a source counts as named, what became of the
// notifications, and which promises were kept by which figures.
//
// It is pure: the room above measures, this one judges, and a test can put any
// figures before it. A promise that could not be measured is not in the list of
// promises; it is named with its reason, and never counts as kept.
package judge
