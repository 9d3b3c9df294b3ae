// Package send sends the jobs of a plan.Run when they are due, whatever the answers do, and writes every id to a file first.
package send
