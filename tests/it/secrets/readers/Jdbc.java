import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.util.Map;
import java.util.Properties;
import org.postgresql.Driver;

/** Reads each format of a mounted Secret as JDBC does, and signs in with what it read. */
class Jdbc {
    static Path folder;

    public static void main(String[] arguments) throws Exception {
        folder = Path.of(arguments[0]);
        var found = Driver.parseURL(read("jdbc-url"), new Properties());
        var wanted = Map.of("PGHOST", "host", "PGPORT", "port", "PGDBNAME", "database", "user", "username",
                "password", "password");
        for (var entry : wanted.entrySet()) {
            // No value is shown: one of them is the token.
            if (!read(entry.getValue()).equals(found.getProperty(entry.getKey()))) {
                throw new AssertionError(entry.getKey() + " in the URL is another");
            }
        }
        login("jdbc-url", read("jdbc-url"), new Properties());

        var plain = "jdbc:postgresql://%s:%s/%s".formatted(read("host"), read("port"), read("database"));
        var properties = new Properties();
        try (Reader reader = Files.newBufferedReader(folder.resolve("db.properties"))) {
            properties.load(reader);
        }
        login("db.properties", plain, properties);

        login("ServiceBinding", plain, binding(read("password")));
        System.setProperty("org.postgresql.pgpassfile", folder.resolve("pgpass").toString());
        login("PgPass", plain, binding(null));
    }

    static Properties binding(String password) throws Exception {
        var properties = new Properties();
        properties.setProperty("user", read("username"));
        if (password != null) {
            properties.setProperty("password", password);
        }
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", folder.resolve("certificates").toString());
        return properties;
    }

    static void login(String what, String url, Properties properties) throws Exception {
        properties.setProperty("loginTimeout", "10");
        try (Connection db = DriverManager.getConnection(url, properties);
                var rows = db.createStatement().executeQuery("SELECT current_user")) {
            rows.next();
            System.out.println(what + " " + rows.getString(1));
        }
    }

    static String read(String key) throws Exception {
        return Files.readString(folder.resolve(key));
    }
}
