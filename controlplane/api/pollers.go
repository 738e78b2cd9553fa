package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/teeth-metal/teeth/controlplane/poller"
	"github.com/teeth-metal/teeth/controlplane/sku"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// querySNMP reads objects of a device that need not be known.
func (s *server) querySNMP(w http.ResponseWriter, r *http.Request) error {
	var in poller.Query
	if err := read(w, r, &in); err != nil {
		return err
	}
	rows, more, err := in.Read(r.Context())
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, map[string]any{"items": rows, "truncated": more})
}

func (s *server) listPollers(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	chassis, err := s.chassisParameter(r)
	if err != nil {
		return err
	}
	found, err := s.Store.ListPollers(r.Context(), chassis, r.URL.Query().Get("page"), n)
	if err != nil {
		return err
	}
	items := make([]poller.View, len(found))
	for i, p := range found {
		items[i] = s.Pollers.Show(p)
	}
	return write(w, http.StatusOK, paged(items, n, func(p poller.View) string { return p.ID }))
}

// chassisParameter is the id of the chassis that a list is of, "" for all.
func (s *server) chassisParameter(r *http.Request) (string, error) {
	return s.chassisID(r.Context(), r.URL.Query().Get("chassis"))
}

// chassisID is the id of the chassis that ref names; "" names none.
func (s *server) chassisID(ctx context.Context, ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	c, err := s.Store.FindChassis(ctx, ref)
	return c.ID, err
}

func (s *server) addPoller(w http.ResponseWriter, r *http.Request) error {
	var in poller.Spec
	if err := read(w, r, &in); err != nil {
		return err
	}
	var err error
	if in.Chassis, err = s.chassisID(r.Context(), in.Chassis); err != nil {
		return err
	}
	p, err := s.Pollers.Add(r.Context(), in)
	if err != nil {
		return err
	}
	return write(w, http.StatusCreated, p)
}

func (s *server) poller(r *http.Request) (store.Poller, error) {
	return s.Store.Poller(r.Context(), r.PathValue("id"))
}

func (s *server) getPoller(w http.ResponseWriter, r *http.Request) error {
	p, err := s.poller(r)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, s.Pollers.Show(p))
}

func (s *server) changePoller(w http.ResponseWriter, r *http.Request) error {
	var in poller.Spec
	if err := read(w, r, &in); err != nil {
		return err
	}
	p, err := s.poller(r)
	if err != nil {
		return err
	}
	if in.Chassis, err = s.chassisID(r.Context(), in.Chassis); err != nil {
		return err
	}
	v, err := s.Pollers.Change(r.Context(), p.ID, in)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, v)
}

func (s *server) removePoller(w http.ResponseWriter, r *http.Request) error {
	p, err := s.poller(r)
	if err != nil {
		return err
	}
	return done(w, s.Store.RemovePoller(r.Context(), p.ID))
}

func (s *server) pollerResults(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	p, err := s.poller(r)
	if err != nil {
		return err
	}
	items, err := s.Store.PollerResults(r.Context(), p.ID, n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[store.PollerResult]{Items: items})
}

func (s *server) listAlerts(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := store.AlertFilter{Poller: q.Get("poller"), Cleared: q.Get("cleared") == "true"}
	if f.Chassis, err = s.chassisParameter(r); err != nil {
		return err
	}
	if v := q.Get("page"); v != "" {
		if f.Before, err = strconv.ParseInt(v, 10, 64); err != nil || f.Before < 1 {
			return &refusal{http.StatusBadRequest, "page: want what the page before gave as next"}
		}
	}
	items, err := s.Store.Alerts(r.Context(), f, n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(a store.Alert) string { return strconv.FormatInt(a.Number, 10) }))
}

func (s *server) clearAlert(w http.ResponseWriter, r *http.Request) error {
	a, err := s.Store.ClearAlert(r.Context(), r.PathValue("id"), callerOf(r).user)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, a)
}

func (s *server) listSKUs(w http.ResponseWriter, r *http.Request) error {
	return page(w, r, s.Store.ListSKUs, func(k store.SKU) string { return k.Name })
}

func (s *server) putSKU(w http.ResponseWriter, r *http.Request) error {
	var in sku.Spec
	if err := read(w, r, &in); err != nil {
		return err
	}
	k, err := s.SKUs.Put(r.Context(), in)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, k)
}

func (s *server) sku(r *http.Request) (store.SKU, error) {
	return s.Store.SKU(r.Context(), r.PathValue("id"))
}

func (s *server) getSKU(w http.ResponseWriter, r *http.Request) error {
	k, err := s.sku(r)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, k)
}

func (s *server) removeSKU(w http.ResponseWriter, r *http.Request) error {
	k, err := s.sku(r)
	if err != nil {
		return err
	}
	return done(w, s.Store.RemoveSKU(r.Context(), k.ID))
}

func (s *server) skuChassis(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	k, err := s.sku(r)
	if err != nil {
		return err
	}
	items, err := s.Store.SKUAssignments(r.Context(), k.ID, r.URL.Query().Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(a store.SKUAssignment) string { return a.Chassis }))
}

func (s *server) skuOf(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	a, err := s.Store.SKUOf(r.Context(), c.ID)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, a)
}
