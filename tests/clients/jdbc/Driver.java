// The driver alone, with properties as any framework can set them. One connection for each query.

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

public final class Driver {
    public static void main(String[] args) throws InterruptedException, IOException {
        var binding = Path.of(System.getenv("DB_BINDING"));
        var properties = new Properties();
        properties.setProperty("PGHOST", Files.readString(binding.resolve("host")));
        properties.setProperty("PGPORT", Files.readString(binding.resolve("port")));
        properties.setProperty("PGDBNAME", Files.readString(binding.resolve("database")));
        properties.setProperty("user", Files.readString(binding.resolve("username")));
        properties.setProperty("authenticationPluginClassName", "MountedToken");
        properties.setProperty("sslmode", "verify-full");
        if (Files.exists(binding.resolve("certificates"))) {
            properties.setProperty("sslrootcert", binding.resolve("certificates").toString());
        } else {
            properties.setProperty("sslfactory", "org.postgresql.ssl.DefaultJavaSSLFactory");
        }
        while (true) {
            try (var connection = DriverManager.getConnection("jdbc:postgresql:///", properties);
                    var statement = connection.createStatement();
                    var rows = statement.executeQuery("SELECT current_user, pg_backend_pid()")) {
                rows.next();
                System.out.printf("signed in as %s, connection %d%n", rows.getString(1), rows.getInt(2));
            } catch (SQLException error) {
                System.err.println("not now: " + error.getMessage());
            }
            Thread.sleep(1000);
        }
    }
}
