//! Events: kept ones as a list, or those and what follows as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json as JsonBody,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::wrappers::BroadcastStream;

use super::{
    problem::{BAD_REQUEST, BUSY, Query, Refusal},
    routes::Api,
};
use crate::api::{backend::EventFeed, types::Event};

/// Silence after which a comment is sent, so that a peer that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Whether to stay and stream what follows (default), or to list what is kept.
    follow: Option<bool>,
    /// Only events above this id; `Last-Event-ID` goes before it.
    after: Option<u64>,
}

pub(super) async fn events(
    State(api): State<Api>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let after = last_event_id(&headers)?.or(query.after);
    if !query.follow.unwrap_or(true) {
        return Ok(JsonBody(api.backend.events(after).backlog).into_response());
    }
    let permit = api.streams.clone().try_acquire_owned().map_err(|_| {
        BUSY.with("too many clients follow the events already: close one, or list them with ?follow=false")
    })?;
    let events = live(api.backend.events(after), permit).take_until(api.cancel.clone().cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.map(Some)
        .ok_or_else(|| BAD_REQUEST.with(format!("Last-Event-ID is {value:?}; it must be an event's number")))
}

/// Ends when the peer falls so far behind that events are lost: it asks again from its last id and is given what is
/// kept.
fn live(
    feed: EventFeed,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<SseEvent, Infallible>> + Send {
    let following = BroadcastStream::new(feed.live)
        .take_while(|event| std::future::ready(event.is_ok()))
        .filter_map(|event| std::future::ready(event.ok()));
    stream::iter(feed.backlog).chain(following).map(move |event| {
        let _held = &permit;
        Ok(frame(&event))
    })
}

fn frame(event: &Event) -> SseEvent {
    let named = SseEvent::default().id(event.id.to_string()).event(event.kind.to_string());
    match named.json_data(event) {
        Ok(framed) => framed,
        Err(error) => SseEvent::default().comment(format!("an event could not be written: {error}")),
    }
}
