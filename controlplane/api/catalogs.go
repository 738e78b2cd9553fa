package api

import (
	"net/http"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// catalogRoutes are about what commands on chassis have told of them.
var catalogRoutes = []route{
	{"GET /v1/chassis/{id}/catalogs", (*server).listCatalogs},
	{"GET /v1/chassis/{id}/catalogs/{source}", (*server).getCatalog},
}

func (s *server) listCatalogs(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	items, err := s.Store.Catalogs(r.Context(), c.ID)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[store.Catalog]{Items: items})
}

func (s *server) getCatalog(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	catalog, err := s.Store.Catalog(r.Context(), c.ID, r.PathValue("source"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, catalog)
}
