# StacyVM in a container, making sandboxes with the engine whose socket it is given:
#
#   docker build -t stacyvm .
#
# See docker-compose.yml for how to run it, and SECURITY.md for what handing over the socket means.

# Both must have the same C library: the program is linked with the one of the first.
ARG BUILDER=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILDER} AS build
# A program that was built outside, relative to the context, instead of building it here:
# target/stacyvm, as `cargo xtask build --profile release` leaves it.
ARG PROGRAM=""
WORKDIR /source
COPY . .
RUN if [ -z "$PROGRAM" ]; then cargo xtask build --profile release && PROGRAM=target/stacyvm; fi \
    && install -m 0755 "$PROGRAM" /stacyvm

FROM ${BASE}
# nft filters the network of sandboxes, where this container may (deploy/docker-compose.direct.yml).
ARG PACKAGES="ca-certificates nftables"
RUN if [ -n "$PACKAGES" ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends $PACKAGES \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && groupadd --system --gid 10001 stacyvm \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/stacyvm --no-create-home \
        --shell /usr/sbin/nologin stacyvm \
    && install -d -o stacyvm -g stacyvm -m 0700 /var/lib/stacyvm
COPY --from=build /stacyvm /usr/local/bin/stacyvm
ENV STACYVM_PROVIDERS_DEFAULT=docker \
    STACYVM_PROVIDERS_NATIVE_ENABLED=false \
    STACYVM_SERVER_DATA_DIR=/var/lib/stacyvm
# The engine's socket belongs to a group of the host: --group-add its number.
USER stacyvm
WORKDIR /var/lib/stacyvm
VOLUME /var/lib/stacyvm
EXPOSE 7423
ENTRYPOINT ["stacyvm"]
CMD ["serve"]
