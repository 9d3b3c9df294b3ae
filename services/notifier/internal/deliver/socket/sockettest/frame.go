package sockettest

import (
	"fmt"
	"io"

	"github.com/gobwas/ws"
)

// maxPayload is more than any frame of a test has.
const maxPayload = 1 << 20

// ReadFrame reads one frame as a client gets it, with a payload of at most 1 MiB.
func ReadFrame(r io.Reader) (ws.Frame, error) {
	header, err := ws.ReadHeader(r)
	if err != nil {
		return ws.Frame{}, err
	}
	if header.Length > maxPayload {
		return ws.Frame{}, fmt.Errorf("sockettest: a frame of %d bytes", header.Length)
	}
	f := ws.Frame{Header: header, Payload: make([]byte, header.Length)}
	_, err = io.ReadFull(r, f.Payload)
	return f, err
}
