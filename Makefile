# Every target installs what it needs by itself; `make setup` does only that.

OUT     ?= out
GO      ?= go
TEETH    = $(OUT)/bin/teeth
export CGO_ENABLED ?= 0

.PHONY: all setup image demo test bench lint clean teeth

all: image teeth

# Debian packages that provide the programs the other targets run.
PACKAGES = ca-certificates dpkg-dev e2fsprogs fdisk gcc gdisk genisoimage grub-pc-bin \
           grub2-common ipxe-qemu libc6-dev mmdebstrap qemu-system-x86 qemu-utils seabios xz-utils zstd

setup:
	@missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || printf '%s ' $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "setup: installing with apt: $$missing"; \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi
	@command -v $(GO) >/dev/null || { echo "setup: install Go as go.mod names it, from the Go project"; exit 1; }

teeth: setup
	$(GO) build -trimpath -o $(TEETH) ./cmd/teeth

image: teeth
	$(TEETH) initramfs build --profile $(or $(PROFILE),lab) --out $(OUT)

demo: teeth
	$(TEETH) lab run --out $(OUT)

# Unit tests and fuzz seeds with the race detector, then whole machines in QEMU.
test: teeth
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /lab/e2e)
	$(GO) test -count=1 -timeout 35m -v ./lab/e2e

bench: setup
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...

lint: setup
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

clean:
	rm -rf $(OUT)
