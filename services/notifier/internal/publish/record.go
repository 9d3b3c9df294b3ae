package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// errEncode: the notification has no durable form. Nothing was sent.
var errEncode = errors.New("encode notification")

var classes = map[core.Class]notifierv1.DeliveryClass{
	core.Event:     notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT,
	core.State:     notifierv1.DeliveryClass_DELIVERY_CLASS_STATE,
	core.Ephemeral: notifierv1.DeliveryClass_DELIVERY_CLASS_EPHEMERAL,
}

// check judges the form of a draft and takes the white space out of its data. That also takes the line breaks, which separate the messages of the
// protocol; within a text JSON has none.
func check(d *core.Draft) *core.Refusal {
	ok := false
	if len(d.Data) <= core.MaxData { // what is larger is refused unread
		var compact bytes.Buffer
		if ok = json.Compact(&compact, d.Data) == nil; ok {
			d.Data = compact.Bytes()
		}
	}
	return core.Check(d, ok)
}

// record makes the record of an admitted draft.
func (r *Room) record(ctx context.Context, now time.Time, id string, shard int, d *core.Draft) (kafka.Record, span, error) {
	ctx, span := r.tracer.send(ctx, id, shard, d)
	value, err := proto.Marshal(&logv1.Notification{
		Id: id, Channel: d.Channel, Class: classes[d.Class], Key: d.Key, Data: d.Data, At: timestamppb.New(now), ExpiresAt: timestamppb.New(now.Add(d.Life())),
		Source: d.Source, Tenant: d.Tenant, JobId: d.JobID,
	})
	if err != nil {
		return kafka.Record{}, span, fmt.Errorf("%w: %w", errEncode, err)
	}
	headers := make([]kafka.Header, 0, 3)
	headers = append(headers, envelope.VersionHeader())
	r.tracer.inject(ctx, &headers)
	return kafka.Record{Topic: r.config.Topic, Partition: shard, Key: []byte(d.Channel), Value: value, Headers: headers}, span, nil
}
