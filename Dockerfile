# Two things to build, both by the same targets as without Docker:
#
#   docker build --target artifacts --output out .   # kernel, initramfs, manifest
#   docker build -t teeth .                          # `teeth serve` with those
#
# PROFILE=metal makes the appliance image for real machines; see docs/image.md.

FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# What `make setup` reads, so that its packages are a layer of their own.
COPY Makefile go.mod ./
COPY scripts scripts
RUN make setup
COPY . .
ARG PROFILE=lab
ARG VERSION=devel
RUN make teeth image "PROFILE=$PROFILE" "VERSION=$VERSION"
# Empty folders for the image below, which has no shell to make them.
RUN mkdir -p -m 700 /own/data /own/tmp

FROM scratch AS artifacts
COPY --from=build /src/out/teeth-amd64.cpio.zst /src/out/vmlinuz-amd64 /src/out/teeth-amd64.efi /src/out/teeth-amd64.iso /src/out/teeth-amd64.json /

FROM scratch AS serve
# For images that the control plane fetches over HTTPS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/out/bin/teeth /usr/bin/teeth
COPY --from=artifacts / /usr/share/teeth/
# A new volume takes over the owner of the folder.
COPY --from=build --chown=65532:65532 /own/ /
USER 65532:65532
VOLUME /data
# Where commands in the container find their control plane.
ENV TEETH_CLIENT=/data/client.json
# REST over HTTPS, agents over TLS, boot files over HTTP.
EXPOSE 8080 8081 8082
ENTRYPOINT ["/usr/bin/teeth"]
# --api, since nobody outside can reach the loopback address of a container.
CMD ["serve", "--data", "/data", "--boot-dir", "/usr/share/teeth", "--api", ":8080"]
