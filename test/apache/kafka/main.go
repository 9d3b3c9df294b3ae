// Command kafka runs Apache Kafka in the foreground, as the tests do: one
// broker or three on free ports of the loopback interface, until Ctrl-C or
// SIGTERM.
//
//	go run ./test/apache/kafka [-brokers 3] [-secure] [-dir D] [-set name=value]…
//
// It prints the addresses on one line, comma-separated, once all brokers serve;
// with -secure, then the CA file, the user and the password, one line each.
// Everything is kept in D; without -dir, in a directory that is removed at the
// end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spillway/spillway/test/apache"
)

func main() {
	var config apache.Config
	flag.IntVar(&config.Brokers, "brokers", 1, "1 or 3")
	flag.BoolVar(&config.Secure, "secure", false, "SASL_SSL with SCRAM-SHA-512, and ACLs")
	flag.DurationVar(&config.SessionTimeout, "session", 0, "broker.session.timeout.ms as a duration (default 3s)")
	dir := flag.String("dir", "", "an empty `directory` to keep everything in (default: a temporary one)")
	lifeline := flag.Bool("until-stdin-closes", false, "stop when stdin is closed, too")
	flag.Func("set", "a broker setting as `name=value`; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("not name=value")
		}
		if config.Override == nil {
			config.Override = make(map[string]string)
		}
		config.Override[name] = value
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *lifeline {
		go func() { // ends with the process
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	if err := run(ctx, *dir, config); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

// run starts brokers and stops them when ctx ends.
func run(ctx context.Context, dir string, config apache.Config) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "kafka-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cluster, err := apache.Launch(ctx, dir, config)
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Close()) }()
	}
	if ctx.Err() != nil {
		return nil // somebody did not want to wait
	}
	if err != nil {
		return err
	}
	addresses := cluster.Addresses()
	fmt.Println(strings.Join(addresses, ","))
	if config.Secure {
		user, password := cluster.Admin()
		fmt.Printf("%s\n%s\n%s\n", cluster.CAFile(), user, password)
	}
	failed := make(chan int, len(addresses))
	for i := range addresses {
		go func() { // ends with the broker
			<-cluster.Failed(i)
			failed <- i
		}()
	}
	select {
	case <-ctx.Done():
		return nil
	case i := <-failed:
		return fmt.Errorf("broker %d ended on its own; its log is in %s", i, dir)
	}
}
