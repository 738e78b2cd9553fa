package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Catalog is what a command on a chassis has told of it. Lists leave Data out.
type Catalog struct {
	Chassis string          `json:"chassis"`
	Source  string          `json:"source"` // its name
	Format  string          `json:"format"` // raw: Data is a text; json: Data is what the command wrote
	Size    int64           `json:"size"`   // of Data in bytes
	Data    json.RawMessage `json:"data,omitempty"`
	Task    string          `json:"task"` // that reported it
	Created time.Time       `json:"created"`
}

// ListCatalogs returns the newest catalog of each source of a chassis.
func (c *Client) ListCatalogs(ctx context.Context, chassis string) ([]Catalog, error) {
	var out struct {
		Items []Catalog `json:"items"`
	}
	err := c.call(ctx, http.MethodGet, chassisPath(chassis, "/catalogs"), nil, nil, &out)
	return out.Items, err
}

// Catalog returns the newest catalog of a source.
func (c *Client) Catalog(ctx context.Context, chassis, source string) (Catalog, error) {
	var out Catalog
	err := c.call(ctx, http.MethodGet, chassisPath(chassis, "/catalogs/"+url.PathEscape(source)), nil, nil, &out)
	return out, err
}
