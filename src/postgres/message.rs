//! One simple-query message and its answer. Without BEGIN the message is the transaction.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::model::Failure;

use super::answer::Answer;
use super::error::{About, classify, unreachable};
use super::stats::SessionStats;

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
            Self::Unsent(failure) => failure.clone(),
        }
    }

    /// Whether the connection must not be used any more.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Said(error) => error.is_closed(),
            Self::Late(_) => true,
            Self::Unsent(_) => false,
        }
    }

    /// What the server answered, if it refused what was asked and goes on with the connection.
    pub(super) fn answer(&self) -> Option<Answer<'_>> {
        match self {
            Self::Said(error) if !error.is_closed() => error.as_db_error().map(Answer::from),
            _ => None,
        }
    }
}

/// Sends one message and waits for the whole answer: the result sets in order.
pub async fn send(
    client: &Client,
    stats: &Arc<SessionStats>,
    limit: Duration,
    sql: &str,
) -> Result<Vec<Table>, Unanswered> {
    stats.sent();
    match tokio::time::timeout(limit, client.simple_query(sql)).await {
        Ok(Ok(messages)) => Ok(tables(messages)),
        Ok(Err(error)) => Err(Unanswered::Said(error)),
        Err(_) => Err(Unanswered::Late(limit)),
    }
}

fn tables(messages: Vec<SimpleQueryMessage>) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => tables.push(Table {
                columns: columns.iter().map(|c| c.name().to_owned()).collect(),
                rows: Vec::new(),
            }),
            SimpleQueryMessage::Row(row) => {
                let value = |at| row.try_get(at).ok().flatten().map(str::to_owned);
                if let Some(table) = tables.last_mut() {
                    table.rows.push((0..row.len()).map(value).collect());
                }
            }
            _ => {}
        }
    }
    tables
}
