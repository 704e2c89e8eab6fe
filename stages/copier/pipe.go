package copier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

// Transfer says which way the rows of a backfill take.
type Transfer string

// The ways of Transfer.
const (
	// TransferAuto is TransferClient if COPY returns every value exactly, the run is on the
	// server's machine, and the WAL that COPY saves would be archived or sent to a standby.
	// Otherwise it is TransferServer.
	TransferAuto Transfer = "auto"
	// TransferServer copies with INSERT … SELECT: rows never leave the server.
	TransferServer Transfer = "server"
	// TransferClient reads with COPY on one connection and writes with COPY on another. It
	// writes a quarter less WAL, but every row goes to this process and back. This takes
	// more of the processors.
	TransferClient Transfer = "client"
)

// COPY's binary format returns values of these types exactly as it was given them. For rows
// with values in a TOAST table, INSERT … SELECT is cheaper, because it does not decompress
// them.
const pipeableSQL = `
SELECT current_setting('client_encoding') = current_setting('server_encoding')
       AND coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0) = 0
       AND NOT EXISTS (
           SELECT FROM pg_attribute a
           WHERE  a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND    a.atttypid <> ALL ('{bool, int2, int4, int8, oid, float4, float8, numeric, text, varchar, bpchar, name, bytea,
                                       date, time, timetz, timestamp, timestamptz, interval, uuid, bit, varbit,
                                       inet, cidr, macaddr}'::regtype[])),
       (inet_client_addr() IS NULL OR inet_client_addr() = inet_server_addr())
       AND (current_setting('archive_mode') <> 'off'
            OR EXISTS (SELECT FROM pg_stat_replication)
            OR EXISTS (SELECT FROM pg_replication_slots))
FROM   pg_class c
WHERE  c.oid = $1`

// piped decides which way the rows take.
func (c *Copier) piped(ctx context.Context) (bool, error) {
	if c.Transfer == TransferServer || c.Strategy.LocksRows() || c.OrderBy != "" {
		return false, nil
	}
	var pipeable, worth bool
	if err := c.Pool.QueryRow(ctx, pipeableSQL, c.Job.Source).Scan(&pipeable, &worth); err != nil {
		return false, fmt.Errorf("choose the way of the rows of %s: %w", c.Source.Name, err)
	}
	if c.Transfer == TransferClient && !pipeable {
		c.Log.Info("rows are copied within the server: COPY would not give back every column as it is, or would decompress wide values",
			"table", c.Source.Name.String())
	}
	return pipeable && (worth || c.Transfer == TransferClient), nil
}

// pipeChunk copies one range through this process. The reading transaction stays open until
// the writing one has committed the rows and their record. So the source cannot be replaced
// in between.
func (c *Copier) pipeChunk(ctx context.Context, reader, writer *pgxpool.Conn, chunk *registry.Chunk) error {
	commits, err := c.Throttle.Commits(ctx)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, reader, func(read pgx.Tx) error {
		if _, err := read.Exec(ctx, steps.ReadRangesSQL); err != nil {
			return fmt.Errorf("set planner options: %w", err)
		}
		return pgx.BeginTxFunc(ctx, writer, session.Begin(commits...), func(write pgx.Tx) error {
			if err := c.Registry.Fence(ctx, write, c.Job.ID, c.Runner.Claim); err != nil {
				return err
			}
			began := time.Now()
			rows, err := c.pipe(ctx, read.Conn(), write.Conn(), chunk)
			if err != nil {
				return err
			}
			chunk.Rows, chunk.Took = rows, time.Since(began)
			return c.endChunk(ctx, write, *chunk)
		})
	})
}

// pipeBuffer is the size in bytes up to which rows are collected into one message.
const pipeBuffer = 1 << 18

// errCutOff is the error of one end of the pipe when the other end has failed.
var errCutOff = errors.New("the other end of the copy has failed")

// pipe copies rows from one connection to the other and returns their number.
func (c *Copier) pipe(ctx context.Context, from, to *pgx.Conn, chunk *registry.Chunk) (int64, error) {
	out, in := c.Link.PipeSQL(chunk.First, chunk.End)
	source, sink := io.Pipe()
	read := make(chan error, 1)
	go func() {
		buffer := bufio.NewWriterSize(sink, pipeBuffer)
		_, err := from.PgConn().CopyTo(ctx, buffer, out)
		if err == nil {
			err = buffer.Flush()
		}
		if err != nil {
			_ = sink.CloseWithError(errCutOff) // never fails
		} else {
			_ = sink.Close() // never fails
		}
		read <- err
	}()
	tag, err := to.PgConn().CopyFrom(ctx, source, in)
	_ = source.CloseWithError(errCutOff) // never fails; the reader stops writing
	if readErr := <-read; readErr != nil && !errors.Is(readErr, errCutOff) {
		return 0, fmt.Errorf("read: %w", readErr)
	}
	if err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return tag.RowsAffected(), nil
}
