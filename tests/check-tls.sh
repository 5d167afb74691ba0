#!/usr/bin/env bash
# One TLS stack: in neither the operator nor the lab another one than rustls with ring. The two are
# looked at apart, because they are built apart: features of one must not hide in the other.
set -euo pipefail

failed=0
for package in entra-postgres-operator lab; do
    tree=$(cargo tree --locked -p "$package" -e normal,build,dev --prefix none -f '{p}' | sed 's, (\*)$,,' | sort -u)
    other=$(grep -E '^(openssl|openssl-sys|native-tls|schannel|security-framework|aws-lc-rs|aws-lc-sys) v' <<<"$tree" || true)
    if [ -n "$other" ]; then
        echo "$package links a second TLS stack: $other; find who asks for it with 'cargo tree -p $package -i NAME'" >&2
        failed=1
    fi
    for name in rustls ring; do
        count=$(grep -cE "^$name v" <<<"$tree" || true)
        if [ "$count" -ne 1 ]; then
            echo "$package has $count versions of $name; exactly one is wanted" >&2
            failed=1
        fi
    done
done
exit "$failed"
