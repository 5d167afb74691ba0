//! One simple-query message and its answer. Without BEGIN the message is the transaction.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::model::{Class, Failure, Reason};

use super::answer::Answer;
use super::connect::Link;
use super::error::{About, classify, unreachable};
use super::sql;
use super::stats::SessionStats;

/// The rows of one answer have so many bytes at most. What the statements choose themselves is less by
/// far: see `questions::MOST` and `privileges_sql::MOST`.
pub(super) const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// What a value costs beside its own bytes.
const VALUE: usize = 24;

/// One result set, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

/// One row of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<String>],
}

impl Table {
    #[cfg(test)]
    pub fn new(columns: &[&str], rows: &[&[Option<&str>]]) -> Self {
        let own = |value: Option<&str>| value.map(str::to_owned);
        Self {
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            rows: rows
                .iter()
                .map(|row| row.iter().copied().map(own).collect())
                .collect(),
        }
    }

    /// Whether it has that column, with rows or without.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row {
            columns: &self.columns,
            values,
        })
    }
}

impl<'a> Row<'a> {
    /// The value in that column; `None` for NULL and for a column that is not there.
    pub fn get(&self, column: &str) -> Option<&'a str> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.values.get(at)?.as_deref()
    }

    /// Whether the column is true.
    pub fn is(&self, column: &str) -> bool {
        self.get(column) == Some("t")
    }
}

/// Why a message has no usable answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The server, or the driver, said so.
    Said(tokio_postgres::Error),
    /// No answer in time: the connection cannot be used any more.
    Late(Duration),
    /// It was not sent: this replica may change nothing now.
    Unsent(Failure),
    /// It was cancelled: this replica may change nothing any more.
    Stopped(Failure),
    /// The answer has more than we keep; whether the connection has ended.
    TooLarge(bool),
}

impl Unanswered {
    /// What it means.
    pub fn failure(&self, about: About<'_>) -> Failure {
        match self {
            Self::Said(error) => classify(about, error),
            Self::Late(limit) => {
                let what = format!("could not {} on {}", about.action, about.server);
                unreachable(about.server, &what, &format!("no answer within {limit:?}"))
            }
            Self::Unsent(failure) | Self::Stopped(failure) => failure.clone(),
            Self::TooLarge(_) => {
                let message = format!(
                    "could not {} on {}: the answer has more than {} MiB; a database administrator can make it smaller: what roles are members of, privileges on thousands of single objects, and comments on roles are what grows",
                    about.action,
                    about.server,
                    LARGEST_ANSWER / (1024 * 1024),
                );
                Failure::new(Class::Denied, Reason::CatalogTooLarge, message)
            }
        }
    }

    /// Whether the connection must not be used any more.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Said(error) => error.is_closed(),
            Self::Late(_) | Self::Stopped(_) => true,
            Self::Unsent(_) => false,
            Self::TooLarge(ended) => *ended,
        }
    }

    /// What the server answered, if it refused what was asked and goes on with the connection.
    pub(super) fn answer(&self) -> Option<Answer<'_>> {
        match self {
            Self::Said(error) if !error.is_closed() => error.as_db_error().map(Answer::from),
            _ => None,
        }
    }

    /// Whether a question for less may well be answered: the server cancelled it (57014), ran out of
    /// something for it (53200, 54000), or there is too much to answer.
    pub fn is_of_its_size(&self) -> bool {
        let sizes = ["57014", "53200", "53400", "54000"];
        match self {
            Self::TooLarge(ended) => !ended,
            _ => self
                .answer()
                .is_some_and(|answer| sizes.contains(&answer.code)),
        }
    }

    /// Whether somebody held a lock for too long: nothing was changed.
    pub fn is_locked(&self) -> bool {
        self.answer().is_some_and(|answer| answer.code == "55P03")
    }

    /// Whether the role's comment is not the one any more that the change was decided on.
    pub fn is_outdated(&self) -> bool {
        let changed = |answer: Answer<'_>| answer.code == sql::COMMENT_CHANGED;
        self.answer().is_some_and(changed)
    }
}

/// Sends one message and waits for the whole answer: the result sets in order.
pub async fn send(
    link: &Link,
    stats: &Arc<SessionStats>,
    limit: Duration,
    sql: &str,
) -> Result<Vec<Table>, Unanswered> {
    stats.sent();
    read(link, limit, sql).await
}

/// The same, uncounted. What is given up is cancelled on the server too.
pub async fn read(link: &Link, limit: Duration, sql: &str) -> Result<Vec<Table>, Unanswered> {
    match tokio::time::timeout(limit, collect(link, sql)).await {
        Ok(Err(Unanswered::Said(_))) if link.is_exceeded() => Err(Unanswered::TooLarge(true)),
        Ok(answer) => answer,
        Err(_) => {
            link.cancel().await;
            Err(Unanswered::Late(limit))
        }
    }
}

async fn collect(link: &Link, sql: &str) -> Result<Vec<Table>, Unanswered> {
    let answer = link.client.simple_query_raw(sql).await;
    let mut answer = pin!(answer.map_err(Unanswered::Said)?);
    let (mut tables, mut size): (Vec<Table>, usize) = (Vec::new(), 0);
    while let Some(message) = answer.next().await {
        match message.map_err(Unanswered::Said)? {
            SimpleQueryMessage::RowDescription(columns) => tables.push(Table {
                columns: columns.iter().map(|c| c.name().to_owned()).collect(),
                rows: Vec::new(),
            }),
            SimpleQueryMessage::Row(row) => {
                size = size.saturating_add(bytes(&row));
                if size > LARGEST_ANSWER {
                    drop(tables);
                    link.cancel().await;
                    // What is on its way is passed over, so that the connection can be used further.
                    while let Some(Ok(_)) = answer.next().await {}
                    return Err(Unanswered::TooLarge(link.client.is_closed()));
                }
                if let Some(table) = tables.last_mut() {
                    let value = |at| row.try_get(at).ok().flatten().map(str::to_owned);
                    table.rows.push((0..row.len()).map(value).collect());
                }
            }
            _ => {}
        }
    }
    Ok(tables)
}

fn bytes(row: &SimpleQueryRow) -> usize {
    let value = |at| row.try_get(at).ok().flatten().map_or(0, str::len) + VALUE;
    (0..row.len()).map(value).sum()
}
