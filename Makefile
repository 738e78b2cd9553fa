# Every target that needs something installs it first; `make setup` does only that.

OUT     ?= out
PROFILE ?= lab
GO       = go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
TEETH    = $(OUT)/bin/teeth

# Where scripts/setup puts the Go toolchain on a machine without a recent one.
export PATH := $(CURDIR)/out/.go/bin:$(PATH)

.PHONY: teeth setup image demo test bench lint clean

teeth: setup
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(TEETH) ./cmd/teeth

setup:
	@scripts/setup

# The appliance image: kernel, initramfs and their description; and both in one,
# for UEFI and as a CD.
image: teeth
	$(TEETH) initramfs build --uki --iso --profile $(PROFILE) --image-version $(VERSION) --out $(OUT)

# The main job, live, on a virtual chassis. Run again, it decommissions it.
demo: teeth
	$(TEETH) lab run --out $(OUT)

# Unit tests and fuzz seeds with the race detector, then whole machines in QEMU.
# The image comes first, as its packages are then at hand for the tests.
test: image
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /lab/e2e)
	$(GO) test -count=1 -timeout 35m -v ./lab/e2e

bench: setup
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

lint: setup
	@unformatted=$$($(GO) run cmd/gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

clean:
	rm -rf $(OUT)
