// A HikariCP pool that reads the mounted Secret for each new connection.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import com.zaxxer.hikari.util.Credentials;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.SQLException;

public final class Main {
    private static final Path BINDING = Path.of(System.getenv("DB_BINDING"));

    private static String read(String key) {
        try {
            return Files.readString(BINDING.resolve(key));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static HikariConfig config() {
        var config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql:///");
        config.addDataSourceProperty("PGHOST", read("host"));
        config.addDataSourceProperty("PGPORT", read("port"));
        config.addDataSourceProperty("PGDBNAME", read("database"));
        config.addDataSourceProperty("sslmode", "verify-full");
        if (Files.exists(BINDING.resolve("certificates"))) {
            config.addDataSourceProperty("sslrootcert", BINDING.resolve("certificates").toString());
        } else {
            // The roots of the JVM.
            config.addDataSourceProperty("sslfactory", "org.postgresql.ssl.DefaultJavaSSLFactory");
        }
        // Called for each new connection: a renewed token is taken up here.
        config.setCredentialsProvider(() -> Credentials.of(read("username"), read("password")));
        config.setMaximumPoolSize(4);
        config.setMinimumIdle(1);
        config.setConnectionTimeout(10_000);
        // A server that is away at the start is waited for.
        config.setInitializationFailTimeout(-1);
        return config;
    }

    public static void main(String[] args) throws InterruptedException {
        try (var pool = new HikariDataSource(config())) {
            while (true) {
                try (var connection = pool.getConnection();
                        var statement = connection.createStatement();
                        var rows = statement.executeQuery("SELECT current_user, pg_backend_pid()")) {
                    rows.next();
                    System.out.printf("signed in as %s, connection %d%n", rows.getString(1), rows.getInt(2));
                } catch (SQLException error) {
                    // The pool's own message says only that it waited in vain.
                    var cause = error.getCause() == null ? error : error.getCause();
                    System.err.println("not now: " + cause.getMessage());
                }
                Thread.sleep(1000);
            }
        }
    }
}
