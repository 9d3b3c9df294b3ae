module github.com/spillway/spillway/bench

go 1.26.0
