# The operator's image. The chart gives only arguments, so the entry point is the program.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p entra-postgres-operator

# With the certificates of public authorities, and nothing to log in to.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/entra-postgres-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/entra-postgres-operator"]
