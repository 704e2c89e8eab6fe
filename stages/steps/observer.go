package steps

import (
	"context"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
)

// Observer returns a worker that knows the job, and has no claim on it: it must write nothing
// that it does not roll back.
func Observer(ctx context.Context, q catalog.Querier, job *registry.Job, alteration *alter.Alteration) (*Worker, error) {
	source, err := job.SourceDescription()
	if err != nil {
		return nil, err
	}
	w := &Worker{Job: job, Source: source, Alteration: alteration}
	key, err := catalog.ReadKey(ctx, q, w.InUse(), w.KeyIndex())
	if err != nil {
		return nil, err
	}
	w.SetLink(key)
	return w, nil
}

// KeyIndex returns the name of the index that identifies rows of the table in use.
func (w *Worker) KeyIndex() string {
	if w.Alteration != nil && w.Job.Swapped() {
		return w.Alteration.KeyIndex
	}
	return w.Job.KeyIndex
}
