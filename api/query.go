package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Queries runs SQL that only reads. Safe for concurrent use; the API has it run
// at most two at a time.
type Queries interface {
	// Query fails with a *QueryError or ErrUnavailable.
	Query(ctx context.Context, sql string) (QueryAnswer, error)
}

// QueryAnswer is the answer to GET /api/v1/query.
type QueryAnswer struct {
	Columns   []string        `json:"columns"`
	Rows      json.RawMessage `json:"rows"`      // of lists, as EncodeRows makes them
	Truncated bool            `json:"truncated"` // there are more rows
	Took      float64         `json:"took_ms"`
}

// QueryError says why a query was not run, or not to its end.
type QueryError struct {
	Code    int    `json:"code"` // HTTP status: 400 no SQL, 403 refused, 408 took too long, 413 took too much memory
	Message string `json:"message"`
}

func (e *QueryError) Error() string { return e.Message }

const (
	// maxSQL is more than a statement may be long, so that the refusal says how long it may be.
	maxSQL = 128 << 10
	// mostQueries run at a time, a core each; one runs until its answer is
	// with the client, for until then it is in memory.
	mostQueries = 2
	// queryWithin is how long a client may take to read an answer.
	queryWithin = 10 * time.Second
)

func (s *Server) query(w http.ResponseWriter, r *http.Request) {
	if elsewhere(w, r) {
		return
	}
	known := []string{"sql"}
	if r.Method == http.MethodPost {
		known = nil // its body is the statement
	}
	query, err := parameters(r, known...)
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	sql := query.Get("sql")
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSQL))
		if err != nil {
			s.answer(w, 0, nil, fmt.Errorf("%w longer than %d bytes: %w", errBody, maxSQL, err))
			return
		}
		sql = string(body)
	}
	select {
	case s.queries <- struct{}{}:
		defer func() { <-s.queries }()
	default:
		s.answer(w, 0, nil, Unavailable(fmt.Sprintf("%d queries run already, or are being read: try again in a second", mostQueries)))
		return
	}
	a, err := s.cfg.Queries.Query(r.Context(), sql)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(queryWithin))
	if qe, ok := errors.AsType[*QueryError](err); ok {
		fail(w, qe.Code, "", qe.Message)
		return
	}
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // "<" would become six bytes, of an answer whose size is bounded
	_ = e.Encode(a)        // an error is the client's, who has gone
}

// blob is a value that is no text.
type blob struct {
	Blob []byte `json:"blob"` // base64
}

// EncodeRows makes JSON of rows of nil, int64, float64, string and []byte.
// Integers keep all their digits, blobs become {"blob":"base64"}, and what is
// not finite, for which JSON has no number, a text.
func EncodeRows(rows [][]any) (json.RawMessage, error) {
	for _, row := range rows {
		for i, v := range row {
			switch v := v.(type) {
			case []byte:
				row[i] = blob{v}
			case float64:
				if math.IsInf(v, 0) || math.IsNaN(v) {
					row[i] = fmt.Sprint(v)
				}
			}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(orEmpty(rows))
	return bytes.TrimSpace(b.Bytes()), err
}

// Values are the rows with nil, json.Number, string and, for a blob, []byte.
func (a QueryAnswer) Values() ([][]any, error) {
	var rows [][]any
	d := json.NewDecoder(bytes.NewReader(a.Rows))
	d.UseNumber()
	if err := d.Decode(&rows); err != nil {
		return nil, fmt.Errorf("the rows of the answer: %w", err)
	}
	for _, row := range rows {
		for i, v := range row {
			if m, is := v.(map[string]any); is {
				var b blob
				text, _ := json.Marshal(m)
				if err := json.Unmarshal(text, &b); err != nil {
					return nil, fmt.Errorf("a blob of the answer: %w", err)
				}
				row[i] = b.Blob
			}
		}
	}
	return rows, nil
}

// Query implements Queries.
func (c *Client) Query(ctx context.Context, sql string) (QueryAnswer, error) {
	const short = 1 << 10 // bytes of a URL that everybody takes
	req, err := c.request(ctx, http.MethodGet, "/api/v1/query", url.Values{"sql": {sql}}, nil)
	if len(sql) > short {
		if req, err = c.request(ctx, http.MethodPost, "/api/v1/query", nil, nil); err == nil {
			req.Body = io.NopCloser(strings.NewReader(sql))
			req.ContentLength = int64(len(sql))
			req.Header.Set("Content-Type", "application/sql")
		}
	}
	if err != nil {
		return QueryAnswer{}, err
	}
	code, answer, err := c.sent(ctx, req)
	if err != nil {
		return QueryAnswer{}, err
	}
	if code != http.StatusOK {
		var e Error
		if json.Unmarshal(answer, &e) == nil && e.Error != "" && (code == 400 || code == 403 || code == 408 || code == 413) {
			return QueryAnswer{}, &QueryError{Code: code, Message: e.Error}
		}
		return QueryAnswer{}, c.refused(code, answer)
	}
	var a QueryAnswer
	if err := json.Unmarshal(answer, &a); err != nil {
		return a, fmt.Errorf("%s does not answer as edgeproxy's admin API does (%w): is this its api_addr?", c.Addr(), err)
	}
	a.Columns = orEmpty(a.Columns)
	return a, nil
}
