package disk

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// usage is what a log takes on the disk, by what it is for.
type usage struct{ jobs, spill, outcomes, other int64 }

func (u usage) total() int64 { return u.jobs + u.spill + u.outcomes + u.other }

// add counts bytes that are of the topic that a name contains.
func (u *usage) add(name string, bytes int64) {
	switch {
	case strings.Contains(name, "jobs."):
		u.jobs += bytes
	case strings.Contains(name, ".spill"):
		u.spill += bytes
	case strings.Contains(name, ".outcomes"):
		u.outcomes += bytes
	default:
		u.other += bytes
	}
}

// logDirs is what brokers say of their disks.
func logDirs(t *testing.T, address string) (u usage) {
	t.Helper()
	c := clientOf(t, address)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, shard := range c.RequestSharded(ctx, kmsg.NewPtrDescribeLogDirsRequest()) {
		if shard.Err != nil {
			t.Fatal(shard.Err)
		}
		for _, dir := range shard.Resp.(*kmsg.DescribeLogDirsResponse).Dirs {
			for _, topic := range dir.Topics {
				for _, p := range topic.Partitions {
					u.add(topic.Topic, p.Size)
				}
			}
		}
	}
	return u
}

// files adds up the files of a log.
func files(dir string) (u usage) {
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // it was deleted meanwhile
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		if rest, err := filepath.Rel(dir, path); err == nil {
			u.add(rest, info.Size())
		}
		return nil
	})
	return u
}
