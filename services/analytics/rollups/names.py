"""Names of what statements add to series: whoever makes a statement writes them, reports read them.

A statement counts at its time for the tenant, its assistant, team and channel, and at the places it names; so on the
axis TOPIC a conversation's counts are found under its main topic, with USERS for whose conversations they are.
"""

# Feedback of people on messages: how often, and each rating; what an analysis wrote in their place is counted apart.
RATINGS = "ratings"
RATING = ("rating_1", "rating_2", "rating_3", "rating_4", "rating_5")
GENERATED_RATINGS = "generated_ratings"

# Content of a conversation, 1 each as far as it applies. SATISFACTION is the sum over SATISFACTION_KNOWN of 1 to 5.
ANALYSES = "analyses"
SENTIMENT_POSITIVE = "sentiment_positive"
SENTIMENT_NEGATIVE = "sentiment_negative"
SENTIMENT_NEUTRAL = "sentiment_neutral"
RESOLVED = "resolved"
UNRESOLVED = "unresolved"
SATISFACTION_KNOWN = "satisfaction_known"
SATISFACTION = "satisfaction"

# Sessions that began, and the sums of what the distributions `session_turns` and `session_seconds` are made of; those
# of no length or without a turn are in no distribution and in neither count.
SESSIONS = "sessions"
SESSIONS_WITH_TURNS = "sessions_with_turns"
SESSION_TURNS_SUM = "session_turns_sum"
SESSIONS_WITH_LENGTH = "sessions_with_length"
SESSION_SECONDS_SUM = "session_seconds_sum"
