package initramfs

import (
	"context"
	"errors"
)

func buildRescue(ctx context.Context, o Options) ([]byte, error) {
	return nil, errors.New("todo")
}
