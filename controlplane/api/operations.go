package api

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/store"
)

func (s *server) version(w http.ResponseWriter, _ *http.Request) error {
	return write(w, http.StatusOK, map[string]string{"version": s.Version})
}

func (s *server) listChassis(w http.ResponseWriter, r *http.Request) error {
	return page(w, r, s.Store.ListChassis, func(c store.Chassis) string { return c.ID })
}

func (s *server) chassis(r *http.Request) (store.Chassis, error) {
	return s.Store.FindChassis(r.Context(), r.PathValue("id"))
}

func (s *server) getChassis(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, c)
}

func (s *server) chassisLog(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	items, err := s.Store.Events(r.Context(), c.ID, n)
	if err != nil {
		return err
	}
	if items == nil {
		items = []store.Event{}
	}
	return write(w, http.StatusOK, list[store.Event]{Items: items})
}

func (s *server) inspect(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	if err := s.Gateway.Inspect(r.Context(), c.ID); err != nil {
		return err
	}
	if c, err = s.Store.Chassis(r.Context(), c.ID); err != nil {
		return err
	}
	return write(w, http.StatusOK, c)
}

func (s *server) listImages(w http.ResponseWriter, r *http.Request) error {
	return page(w, r, s.Store.ListImages, func(i store.Image) string { return i.Name })
}

func (s *server) getImage(w http.ResponseWriter, r *http.Request) error {
	img, err := s.Store.Image(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, img)
}

func (s *server) removeImage(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.Images.Remove(r.Context(), r.PathValue("id")))
}

// addImage takes the image's file itself, or JSON that says where it is.
func (s *server) addImage(w http.ResponseWriter, r *http.Request) error {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var img store.Image
	var err error
	switch kind {
	case "application/octet-stream":
		q := r.URL.Query()
		req := images.Request{Name: q.Get("name"), Format: q.Get("format"), SHA256: q.Get("sha256")}
		img, err = s.Images.Add(r.Context(), req, &steady{r.Body, http.NewResponseController(w)})
	case "application/json":
		var in struct {
			Name   string `json:"name"`
			Format string `json:"format"`
			SHA256 string `json:"sha256"`
			URL    string `json:"url"`
		}
		if err := read(w, r, &in); err != nil {
			return err
		}
		img, err = s.Images.Fetch(r.Context(), images.Request{Name: in.Name, Format: in.Format, SHA256: in.SHA256}, in.URL)
	default:
		err = &refusal{http.StatusUnsupportedMediaType, "Content-Type: want application/octet-stream (the image) or application/json (its url)"}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/images/"+img.ID)
	return write(w, http.StatusCreated, img)
}

// steady reads a body that may take hours, as long as it keeps coming.
type steady struct {
	r io.Reader
	c *http.ResponseController
}

func (s *steady) Read(p []byte) (int, error) {
	s.c.SetReadDeadline(time.Now().Add(bodyStall))
	n, err := s.r.Read(p)
	if err == io.EOF {
		// The file is yet to be flushed, which may take longer.
		s.c.SetReadDeadline(time.Time{})
	}
	return n, err
}

// eventData is the JSON of a change, on one line.
func eventData(c store.Change) (kind string, data []byte, err error) {
	switch {
	case c.Task != nil:
		data, err = json.Marshal(c.Task)
		return "task", data, err
	case c.Graph != nil:
		data, err = json.Marshal(c.Graph)
		return "graph", data, err
	case c.Chassis != nil:
		data, err = json.Marshal(c.Chassis)
		return "chassis", data, err
	}
	data, err = json.Marshal(c.Event)
	return "log", data, err
}
