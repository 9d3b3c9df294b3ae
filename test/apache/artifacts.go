package apache

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Version is the version of Apache Kafka in pom.xml.
const Version = "4.4.0"

//go:embed pom.xml
var pom []byte

// fetchTimeout bounds fetching the jars: 45 MB, 36 s from an empty Maven
// repository, and installing Java and Maven before it where that is done.
const fetchTimeout = 5 * time.Minute

// toolsMissing says how to get what cannot be fetched.
const toolsMissing = "java 17 or newer is missing, or Maven to fetch Apache Kafka with: install them, for example with\n" +
	"\tapt-get install --no-install-recommends default-jre-headless maven    (Debian, Ubuntu)\n" +
	"\tbrew install openjdk maven                                            (macOS)"

// artifacts returns the directory of Kafka's jars, which it fetches when the
// cache does not hold them. One process at a time fetches; the directory
// appears complete or not at all.
func artifacts(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "spillway")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "apache-kafka-"+Version)
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()

	// The cache may be of another pom.xml with the same version of Kafka.
	cached, _ := os.ReadFile(filepath.Join(dir, "pom.xml"))
	complete := bytes.Equal(cached, pom)
	if err := tools(ctx, !complete); err != nil || complete {
		return dir, err
	}
	fresh, err := os.MkdirTemp(cache, "fetching-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := fetch(ctx, fresh); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.Rename(fresh, dir)
}

// fetch fills a directory with the jars and the pom.xml that they are of.
func fetch(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // MkdirTemp's is for its owner only
		return err
	}
	return run(ctx, "mvn", "-q", "-B", "-f", file, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
}

// tools makes sure that there is Java, and Maven if it is asked for. On a
// Debian build machine it installs them.
func tools(ctx context.Context, maven bool) error {
	missing := func() bool {
		_, noJava := exec.LookPath("java")
		_, noMaven := exec.LookPath("mvn")
		return noJava != nil || maven && noMaven != nil
	}
	if !missing() {
		return nil
	}
	_, notDebian := os.Stat("/etc/debian_version")
	if os.Getenv("CI") != "true" || os.Getuid() != 0 || notDebian != nil {
		return errors.New(toolsMissing)
	}
	if err := run(ctx, "apt-get", "update", "-qq"); err != nil {
		return fmt.Errorf("%s\n%w", toolsMissing, err)
	}
	if err := run(ctx, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "default-jre-headless", "maven"); err != nil {
		return fmt.Errorf("%s\n%w", toolsMissing, err)
	}
	return nil
}

// run runs a command and returns what it printed if it fails.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(out, 20))
	}
	return nil
}

// lockPause is the pause between two looks at a lock that somebody holds.
const lockPause = 100 * time.Millisecond

// lock takes the lock on a file, which the system gives back when its holder
// dies, and returns how to give it back.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s, which another process holds: %w", name, ctx.Err())
		}
	}
}
