// For pgjdbc with any pool or none: the driver asks it for the password of each new connection.

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import org.postgresql.plugin.AuthenticationPlugin;
import org.postgresql.plugin.AuthenticationRequestType;
import org.postgresql.util.PSQLException;
import org.postgresql.util.PSQLState;

public final class MountedToken implements AuthenticationPlugin {
    private static final Path TOKEN = Path.of(System.getenv("DB_BINDING"), "password");

    public MountedToken(Properties unused) {}

    @Override
    public char[] getPassword(AuthenticationRequestType type) throws PSQLException {
        try {
            return Files.readString(TOKEN).toCharArray();
        } catch (IOException error) {
            throw new PSQLException("cannot read " + TOKEN, PSQLState.CONNECTION_UNABLE_TO_CONNECT, error);
        }
    }
}
