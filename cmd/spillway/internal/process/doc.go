// Package process runs this binary again as child processes and keeps them
// running: the services and the broker under `spillway dev`, worker processes
// under `spillway load`.
//
//	start ──▶ running ──exit──▶ backing off ──▶ start        (counted)
//	             │  ▲
//	             │  └── above its memory ceiling: stopped, then as exit
//	             └── Run's context ends: stdin closed ──▶ exits in time, or is killed
//
// A child knows that it has to stop when its standard input ends. The parent
// holds the other end of that pipe and writes nothing into it, so a parent that
// dies by any signal takes its children along, and a child needs neither its
// parent's pid nor a signal. Children have a process group of their own, so
// that Ctrl-C reaches only the parent and the order of stopping is kept.
package process
