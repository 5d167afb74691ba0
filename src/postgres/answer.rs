//! A server's error with all that it says. It is carried like that to where it is shown, so that whatever is
//! decided is decided by its fields, never by a sentence of ours. Must not say what to do.

use tokio_postgres::error::DbError;

use super::error::one_line;

/// A server's error as far as it decides anything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer<'a> {
    pub code: &'a str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
    /// CONTEXT: which functions and statements it came through, the innermost first.
    pub context: Option<&'a str>,
    /// The function of the server's source that reports it: unlike the texts, the same in every language.
    pub routine: Option<&'a str>,
}

impl<'a> From<&'a DbError> for Answer<'a> {
    fn from(error: &'a DbError) -> Self {
        Self {
            code: error.code().code(),
            message: error.message(),
            detail: error.detail(),
            hint: error.hint(),
            context: error.where_(),
            routine: error.routine(),
        }
    }
}

impl<'a> Answer<'a> {
    /// Whether the same message may well succeed when it is sent again at once: a deadlock, or somebody changed
    /// the same thing at the same time. A lock that is held is not among these: it has cost its time-out.
    pub fn is_a_clash(&self) -> bool {
        matches!(self.code, "40P01" | "40001") || self.is_concurrent_update()
    }

    /// An update in the catalog that another one came before; the server has no code for it.
    pub fn is_concurrent_update(&self) -> bool {
        self.code == "XX000"
            && (self.message.contains("concurrently updated")
                || self.routine == Some("simple_heap_update"))
    }

    /// Whether it says something of the moment only, whatever else it says.
    pub fn passes(&self) -> bool {
        let class = self.code.get(..2);
        self.is_a_clash()
            || matches!(self.code, "55P03" | "57014")
            || matches!(class, Some("08" | "53" | "57" | "58"))
    }

    /// The line of CONTEXT about a function of the database, if the error comes from one: what we send calls
    /// none, so that it is one that an event trigger runs. Our own blocks have no name, and the server's own
    /// functions are `pgaadauth_*`.
    pub fn in_function(&self) -> Option<&'a str> {
        let ours = |line: &str| {
            // The latter is an assignment in a block of ours.
            ["inline_code_block", " pgaadauth_", ":="]
                .iter()
                .any(|part| line.contains(part))
        };
        let mut lines = self.context.unwrap_or_default().lines();
        lines.find(|line| line.contains("PL/") && !line.starts_with("SQL statement") && !ours(line))
    }

    /// As servers from version 16 on say it: "... the ADMIN option on role ...".
    pub fn lacks_admin_option(&self) -> bool {
        self.code == "42501" && self.text().contains("option on role")
    }

    /// What is said of message and DETAIL in lower case.
    pub fn text(&self) -> String {
        let text = format!("{} {}", self.message, self.detail.unwrap_or_default());
        text.to_lowercase()
    }

    /// All that it says, in one line.
    pub fn said(&self) -> String {
        let part = |text: Option<&str>, before: &str, after: &str| {
            text.map(|text| format!("{before}{}{after}", one_line(text)))
                .unwrap_or_default()
        };
        format!(
            "{message}{detail}{place} [SQLSTATE {code}]{hint}",
            message = one_line(self.message),
            detail = part(self.detail, " (", ")"),
            place = part(self.in_function(), " in ", ""),
            code = self.code,
            hint = part(self.hint, " Hint: ", ""),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(context: &str) -> Option<String> {
        let answer = Answer {
            context: Some(context),
            ..Answer::default()
        };
        answer.in_function().map(str::to_owned)
    }

    // Red when: in_function() takes our own blocks or Azure's functions for somebody's, knows English only, or
    // looks at the first line only.
    #[test]
    fn a_function_of_the_database_is_found_in_the_context_in_every_language() {
        for (context, function) in [
            (
                "PL/pgSQL function public.log() line 3 at SQL statement",
                "PL/pgSQL function public.log() line 3 at SQL statement",
            ),
            (
                "SQL statement \"INSERT INTO audit VALUES (1)\"\nPL/pgSQL-Funktion log() Zeile 1 bei SQL-Anweisung\nSQL-Anweisung »GRANT SELECT«\nPL/pgSQL-Funktion inline_code_block Zeile 9 bei EXECUTE",
                "PL/pgSQL-Funktion log() Zeile 1 bei SQL-Anweisung",
            ),
            (
                "fonction PL/pgSQL public.log(), ligne 3, à instruction SQL",
                "fonction PL/pgSQL public.log(), ligne 3, à instruction SQL",
            ),
            (
                "while executing\nPL/Perl function \"log\"",
                "PL/Perl function \"log\"",
            ),
        ] {
            assert_eq!(of(context).as_deref(), Some(function), "{context}");
        }
        for context in [
            "",
            "SQL statement \"GRANT SELECT ON \"PL/x\" TO y\"\nPL/pgSQL function inline_code_block line 20 at EXECUTE",
            "PL/pgSQL function pgaadauth_create_principal(text,boolean,boolean) line 4 at RAISE",
            "PL/pgSQL assignment \"v_most := 1 / 0\"\nPL/pgSQL function inline_code_block line 4 at assignment",
        ] {
            assert_eq!(of(context), None, "{context}");
        }
    }

    // Red when: what may be sent again at once has a lock in it, or goes by the words alone.
    #[test]
    fn a_clash_is_sent_again_and_a_held_lock_is_not() {
        let answer = |code, message| Answer {
            code,
            message,
            ..Answer::default()
        };
        assert!(answer("40P01", "deadlock detected").is_a_clash());
        assert!(answer("40001", "could not serialize").is_a_clash());
        assert!(answer("XX000", "tuple concurrently updated").is_a_clash());
        assert!(!answer("P0001", "tuple concurrently updated").is_a_clash());
        assert!(!answer("55P03", "canceling statement due to lock timeout").is_a_clash());
        assert!(answer("55P03", "canceling statement due to lock timeout").passes());
    }
}
