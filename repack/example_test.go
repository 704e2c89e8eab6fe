package repack_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/repack"
)

// Repack a table, and distinguish what can be done about an error.
func ExampleRepack_Run() {
	ctx := context.Background()
	config, err := pgx.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	r, err := repack.New(config, repack.Options{
		Table:  `sales."Orders"`,
		Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	})
	if err != nil {
		log.Fatal(err)
	}
	var refused *repack.RefusedError
	var busy *repack.BusyError
	switch err := r.Run(ctx); {
	case errors.As(err, &refused):
		for _, reason := range refused.Reasons {
			fmt.Println(reason)
		}
	case errors.As(err, &busy):
		fmt.Printf("process %d on %s is at it\n", busy.PID, busy.Host)
	case err != nil:
		log.Print(err, "; running again continues the job")
	}
}

// Make a key bigint, with all columns that refer to it, and look on.
func ExampleOptions_toBigint() {
	config, err := pgx.ParseConfig("host=localhost dbname=shop")
	if err != nil {
		log.Fatal(err)
	}
	r, err := repack.New(config, repack.Options{
		Table: "orders", ToBigint: true, Cascade: true,
		Hooks: repack.Hooks{AfterChunk: func(_ context.Context, p repack.Progress) error {
			log.Printf("%d of %d blocks, %d rows", p.Blocks, p.TotalBlocks, p.Rows)
			return nil
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Run(context.Background()); err != nil {
		log.Print(err, "; running again continues the jobs")
	}
}

// Swap today, and clean up or go back another day.
func ExampleRepack_Revert() {
	ctx := context.Background()
	config, err := pgx.ParseConfig("host=localhost dbname=shop")
	if err != nil {
		log.Fatal(err)
	}
	r, err := repack.New(config, repack.Options{Table: "orders", Until: repack.Swap})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Run(ctx); err != nil {
		log.Fatal(err)
	}
	if err := r.Revert(ctx); errors.Is(err, repack.ErrNotSwapped) {
		fmt.Println("nothing to revert")
	}
}

// Show how far each job is.
func ExampleRepack_Status() {
	config, err := pgx.ParseConfig("host=localhost dbname=shop")
	if err != nil {
		log.Fatal(err)
	}
	r, err := repack.New(config, repack.Options{})
	if err != nil {
		log.Fatal(err)
	}
	jobs, err := r.Status(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, job := range jobs {
		fmt.Printf("%s: %s, %d of about %d rows\n", job.Table, job.Stage, job.RowsCopied, job.RowsTotal)
	}
}

// New reports options that are not valid, before it connects to a server.
func ExampleNew() {
	_, err := repack.New(nil, repack.Options{Table: "orders", Until: "later"})
	var usage *repack.UsageError
	fmt.Println(errors.As(err, &usage))
	_, err = repack.New(nil, repack.Options{Table: "orders", BatchSize: -1})
	fmt.Println(errors.As(err, &usage))
	_, err = repack.New(nil, repack.Options{Table: "orders", Strategy: repack.DirectTrigger, Until: repack.Backfill})
	fmt.Println(err)
	// Output:
	// true
	// true
	// <nil>
}
