# Every target that needs something installs it first; `make setup` does only that.

OUT     ?= out
PROFILE ?= lab
GO       = go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
TEETH    = $(OUT)/bin/teeth

# Where scripts/setup puts the Go toolchain on a machine without a recent one.
export PATH := $(CURDIR)/out/.go/bin:$(PATH)

.PHONY: teeth agent setup image install demo test bench lint clean

teeth: setup
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(TEETH) ./cmd/teeth

# The agent for installed systems (packaging/teeth-agent.service); the images have their own.
agent: setup
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(OUT)/bin/teeth-agent ./cmd/teeth-agent

setup:
	@scripts/setup

# The appliance image: kernel, initramfs and their description; and both in one,
# for UEFI and as a CD.
image: teeth
	$(TEETH) initramfs build --uki --iso --profile $(PROFILE) --image-version $(VERSION) --out $(OUT)

# What `make teeth image` has built, in Debian's places; as root, or into DESTDIR.
# Settings that are there are left alone. docs/operations.md has the rest.
install:
	@test -x $(TEETH) || { echo "install: $(TEETH) is not built yet: make teeth image"; exit 1; }
	install -D -m 0755 $(TEETH) $(DESTDIR)/usr/bin/teeth
	install -D -m 0644 packaging/teeth.service $(DESTDIR)/usr/lib/systemd/system/teeth.service
	install -D -m 0644 packaging/teeth.sysusers $(DESTDIR)/usr/lib/sysusers.d/teeth.conf
	install -d -m 0750 $(DESTDIR)/etc/teeth
	test -e $(DESTDIR)/etc/teeth/teeth.yaml || install -m 0640 packaging/teeth.yaml $(DESTDIR)/etc/teeth/teeth.yaml
	install -d $(DESTDIR)/usr/share/bash-completion/completions $(DESTDIR)/usr/share/zsh/vendor-completions $(DESTDIR)/usr/share/fish/vendor_completions.d
	$(TEETH) completion bash >$(DESTDIR)/usr/share/bash-completion/completions/teeth
	$(TEETH) completion zsh >$(DESTDIR)/usr/share/zsh/vendor-completions/_teeth
	$(TEETH) completion fish >$(DESTDIR)/usr/share/fish/vendor_completions.d/teeth.fish
	install -d $(DESTDIR)/usr/share/teeth $(DESTDIR)/usr/share/doc/teeth
	install -m 0644 docs/*.md $(DESTDIR)/usr/share/doc/teeth
	for f in $(OUT)/vmlinuz-amd64 $(OUT)/teeth-amd64.*; do test ! -f $$f || install -m 0644 $$f $(DESTDIR)/usr/share/teeth; done

# The main job, live, on a virtual chassis. Run again, it decommissions it.
demo: teeth
	$(TEETH) lab run --out $(OUT)

# Unit tests and fuzz seeds with the race detector, then whole machines in QEMU.
# The image comes first, as its packages are then at hand for the tests. Many tests
# wait for a database or a broker, so three packages share two cores. What setup
# has installed may not be missing: no test is skipped for that.
test: export TEETH_TEST_COMPLETE = 1
test: image
	CGO_ENABLED=1 $(GO) test -race -p 3 -timeout 25m $$($(GO) list ./... | grep -v /lab/e2e)
	$(GO) test -count=1 -timeout 35m -parallel 2 -v ./lab/e2e

bench: setup
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

lint: setup
	@unformatted=$$($(GO) run cmd/gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

clean:
	rm -rf $(OUT)
