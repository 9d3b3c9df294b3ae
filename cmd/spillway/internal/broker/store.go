package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// level is how full the store is.
type level int32

const (
	roomy level = iota // below 90 %: everything is taken
	tight              // from 90 %: new work is refused, old work can finish
	full               // from 100 %: every record is refused
)

// tightPercent is where refusing new work begins. The tenth that is left is
// for the events and moves of the work that is there already.
const tightPercent = 90

// store watches how much of the disk budget is used.
type store struct {
	dir   string
	limit int64
	log   *slog.Logger
	// used is what the last scan found plus every produce request since: too
	// much rather than too little.
	used atomic.Int64

	mu    sync.Mutex
	last  level // as last logged
	armed bool  // cluster refuses by the control function
	calm  int   // scans in a row that found the store roomy
	// cluster is set once it runs; before that no request is served.
	cluster *kfake.Cluster
}

// calmScans is how many scans must find room before the control function goes:
// by then no request that was marked before can still be under way.
const calmScans = 2

// add counts a produce request, or takes back one that is refused, and returns
// the level with it.
func (s *store) add(bytes int) level {
	l := s.levelAt(s.used.Add(int64(bytes)))
	if l != roomy {
		s.change(l)
	}
	return l
}

func (s *store) levelAt(used int64) level {
	switch {
	case used >= s.limit:
		return full
	case used >= s.limit/100*tightPercent:
		return tight
	default:
		return roomy
	}
}

// scan measures the directory anew.
func (s *store) scan() error {
	before := s.used.Load()
	size, err := dirSize(s.dir)
	if err != nil {
		return fmt.Errorf("broker: measure the store: %w", err)
	}
	// Requests that came during the scan are in both or in neither figure;
	// count them once more.
	s.used.Store(size + s.used.Load() - before)
	s.change(s.levelAt(s.used.Load()))
	return nil
}

// change arms or disarms the refusal and logs a new level. The control
// function is there only while it is needed: kfake keeps the last request of
// every connection for it.
func (s *store) change(l level) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l == roomy {
		s.calm++
	} else {
		s.calm = 0
		if !s.armed && s.cluster != nil {
			s.armed = true
			s.cluster.ControlKey(int16(kmsg.Produce), s.refuse)
		}
	}
	if l == s.last {
		return
	}
	s.last = l
	used := slog.Int64("used_bytes", s.used.Load())
	switch l {
	case roomy:
		s.log.Info("the store has room again", used)
	case tight:
		s.log.Warn("the store is nearly full: new work is refused", used, slog.Int64("limit_bytes", s.limit))
	case full:
		s.log.Error("the store is full: every record is refused", used, slog.Int64("limit_bytes", s.limit))
	}
}

// refuse answers the produce requests that the guard has marked, with the code
// that our client takes as kafka.ErrFull. It runs on kfake's loop.
func (s *store) refuse(r kmsg.Request) (kmsg.Response, error, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := r.(*kmsg.ProduceRequest)
	if req.Acks != refusedAcks {
		if s.calm >= calmScans {
			s.armed = false
			s.cluster.DropControl()
		}
		return nil, nil, false
	}
	s.cluster.KeepControl()
	res := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic = t.Topic
		topic.TopicID = t.TopicID
		for _, p := range t.Partitions {
			partition := kmsg.NewProduceResponseTopicPartition()
			partition.Partition = p.Partition
			partition.ErrorCode = kerr.ThrottlingQuotaExceeded.Code
			topic.Partitions = append(topic.Partitions, partition)
		}
		res.Topics = append(res.Topics, topic)
	}
	return res, nil, true
}

// checkMemory refuses a cap that could not be read back: at start kfake reads
// the whole store into memory.
func checkMemory(limit int64) error {
	if memory := debug.SetMemoryLimit(-1); limit > memory {
		return fmt.Errorf("broker: a store of up to %d MiB does not fit the memory limit of %d MiB: it is read into memory at start", limit>>20, memory>>20)
	}
	return nil
}

// dirSize sums the sizes of the files below dir. Files that vanish meanwhile
// count as nothing.
func dirSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				sum += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}
