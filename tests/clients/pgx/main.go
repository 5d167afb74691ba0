// A pool that reads the mounted Secret for each new connection.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func path(key string) string {
	return filepath.Join(os.Getenv("DB_BINDING"), key)
}

func read(key string) string {
	text, err := os.ReadFile(path(key))
	if err != nil {
		log.Fatal(err)
	}
	return string(text)
}

// Everything but the password, which is another one at each renewal.
func address() string {
	options := url.Values{"sslmode": {"verify-full"}, "connect_timeout": {"10"}}
	// Without it: the system's roots.
	if _, err := os.Stat(path("certificates")); err == nil {
		options.Set("sslrootcert", path("certificates"))
	}
	address := url.URL{
		Scheme:   "postgresql",
		User:     url.User(read("username")),
		Host:     net.JoinHostPort(read("host"), read("port")),
		Path:     "/" + read("database"),
		RawQuery: options.Encode(),
	}
	return address.String()
}

func main() {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(address())
	if err != nil {
		log.Fatal(err)
	}
	// Called before each new connection: a renewed token is taken up here.
	config.BeforeConnect = func(_ context.Context, connection *pgx.ConnConfig) error {
		token, err := os.ReadFile(path("password"))
		connection.Password = string(token)
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for {
		var user string
		var pid int
		row := pool.QueryRow(ctx, "SELECT current_user, pg_backend_pid()")
		if err := row.Scan(&user, &pid); err != nil {
			fmt.Fprintln(os.Stderr, "not now:", err)
		} else {
			fmt.Printf("signed in as %s, connection %d\n", user, pid)
		}
		time.Sleep(time.Second)
	}
}
