package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

const (
	// queryEnds is how long the process of a query may take until it is killed,
	// its start on a busy machine included. What computes is killed before, by the
	// CPU time that it may take.
	queryEnds = sqlite.QueryTime + 10*time.Second
	// maxQueryAnswer bounds what is read of it: more than a whole answer in JSON.
	maxQueryAnswer = 8 << 20
)

// QueryRequest is what the process of a query reads on its stdin, which ends
// with the POP; QueryReply what it writes to stdout.
type QueryRequest struct {
	DB  string `json:"db"`
	SQL string `json:"sql"`
}

// QueryReply is one of an answer and an error.
type QueryReply struct {
	Answer      *api.QueryAnswer `json:"answer,omitempty"`
	Error       *api.QueryError  `json:"error,omitempty"`
	Unavailable string           `json:"unavailable,omitempty"` // the database
}

// Query implements api.Queries, in a process of its own: SQLite cannot be kept
// from taking memory for a sort, or from a long step, but a process can. It
// shares no lock with this one, and ends with it.
func (n *Node) Query(ctx context.Context, sql string) (api.QueryAnswer, error) {
	if n.opts.Query == nil {
		return api.QueryAnswer{}, api.Unavailable("this POP runs inside another program (the lab), which runs no queries")
	}
	ctx, cancel := context.WithTimeout(ctx, queryEnds)
	defer cancel()
	reply, err := runQuery(n.opts.Query(ctx), QueryRequest{n.store().Path(), sql})
	switch {
	case err == nil && reply.Answer != nil:
		return *reply.Answer, nil
	case err == nil && reply.Error != nil:
		return api.QueryAnswer{}, reply.Error
	case err == nil && reply.Unavailable != "":
		return api.QueryAnswer{}, api.Unavailable(reply.Unavailable)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.QueryAnswer{}, &api.QueryError{Code: http.StatusRequestTimeout, Message: fmt.Sprintf("the query took too long: %s are what it may take", sqlite.QueryTime)}
	case ctx.Err() != nil:
		return api.QueryAnswer{}, ctx.Err()
	}
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && killed(ended) {
		return api.QueryAnswer{}, &api.QueryError{Code: http.StatusRequestTimeout, Message: "the query took too long, or the machine has no memory left"}
	} else if ok {
		n.log.Warn().Str("err", ended.String()).Str("text", firstLine(ended.Stderr)).Msg("query ended by what it took")
		return api.QueryAnswer{}, &api.QueryError{Code: http.StatusRequestEntityTooLarge, Message: "the query took more memory than it may: ask for less, or use sqlite3 on a backup"}
	}
	return api.QueryAnswer{}, api.Unavailable(fmt.Sprintf("the query could not be run in a process of its own: %v", err))
}

// killed says whether a process ended by a signal, as it does when it has used up
// its CPU time.
func killed(ended *exec.ExitError) bool {
	status, ok := ended.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// runQuery runs the command to its end. Its stdin stays open until then, so that it
// ends where this process does.
func runQuery(cmd *exec.Cmd, request QueryRequest) (reply QueryReply, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return reply, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return reply, err
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return reply, err
	}
	errs := &complaint{}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		return reply, err
	}
	_, writeErr := in.Write(append(body, '\n'))
	text, readErr := io.ReadAll(io.LimitReader(out, maxQueryAnswer))
	if readErr != nil || len(text) == maxQueryAnswer {
		_ = cmd.Process.Kill() // it must not wait for a reader
	}
	err = cmd.Wait()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		ended.Stderr = errs.Bytes()
	}
	if err := errors.Join(err, writeErr, readErr); err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(text, &reply)
}

// complaint keeps the first of what a process complains of: of a Go program that is
// out of memory, the reason.
type complaint struct{ bytes.Buffer }

func (t *complaint) Write(p []byte) (int, error) {
	if room := 4096 - t.Len(); room > 0 {
		t.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	return string(line)
}

// RunQuery answers one request, in the process of a query or of the command line.
func RunQuery(ctx context.Context, q QueryRequest) QueryReply {
	began := time.Now()
	a, err := sqlite.Query(ctx, q.DB, q.SQL)
	var rows json.RawMessage
	if err == nil {
		rows, err = api.EncodeRows(a.Rows)
	}
	switch {
	case err == nil:
		took := float64(time.Since(began).Microseconds()) / 1000
		return QueryReply{Answer: &api.QueryAnswer{Columns: a.Columns, Rows: rows, Truncated: a.Truncated, Took: took}}
	case errors.Is(err, sqlite.ErrRefused):
		return QueryReply{Error: &api.QueryError{Code: http.StatusForbidden, Message: err.Error()}}
	case errors.Is(err, sqlite.ErrStatement):
		return QueryReply{Error: &api.QueryError{Code: http.StatusBadRequest, Message: err.Error()}}
	case errors.Is(err, sqlite.ErrTooMuch):
		return QueryReply{Error: &api.QueryError{Code: http.StatusRequestEntityTooLarge, Message: err.Error()}}
	case errors.Is(err, sqlite.ErrTooSlow):
		return QueryReply{Error: &api.QueryError{Code: http.StatusRequestTimeout, Message: err.Error()}}
	}
	return QueryReply{Unavailable: err.Error()}
}
