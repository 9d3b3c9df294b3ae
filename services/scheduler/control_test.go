package scheduler

import (
	"reflect"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/controllog"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// TestConverterFollows: one state after the other, each with another change, is the same to the engine as if every source were converted anew; and
// what has not changed is not converted again.
func TestConverterFollows(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	fold := controllog.NewFold("control", key)
	var last []byte
	var offset int64
	step := func(c *logv1.Command) *controllog.State {
		t.Helper()
		c.Format, c.ExpectedRevision = 1, controllog.AnyRevision
		value, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		v, err := fold.Apply(controllog.Record{Offset: offset, Value: value, Headers: controllog.Seal("control", key, value, last)})
		if err != nil || v.Refusal != nil {
			t.Fatal(err, v.Refusal)
		}
		last, offset = value, offset+1
		return fold.State()
	}
	put := func(name string, weight int32) *logv1.Command {
		return &logv1.Command{Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: &automationv1.Source{
			Name: name, Types: []string{"tag"}, Principals: []string{"*"}, Weight: weight,
		}}}}
	}
	step(&logv1.Command{Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{
		ClusterId: "c", FormatVersion: controllog.Format, Shards: 8, Lanes: 16, Prefix: "spillway.",
	}}})
	var k converter
	for _, command := range []*logv1.Command{
		put("a", 100), put("b", 100), put("a", 300), {Act: &logv1.Command_DeleteSource{DeleteSource: &logv1.DeleteSource{Name: "b"}}}, put("b", 7),
	} {
		state := step(command)
		before := k.sources
		var fresh converter
		got, want := k.control(state), fresh.control(state)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		for name, was := range before {
			if now, has := k.sources[name]; has && was.source == now.source && command.GetPutSource().GetSource().GetName() == name {
				t.Errorf("%s was put and not converted", name)
			}
		}
		if len(k.sources) != state.Len() {
			t.Errorf("%d sources are kept of %d", len(k.sources), state.Len())
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
