"""Every address of the site. Those of the API have no trailing slash."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from deployments.login import one_time_login

admin.site.site_header = "Sentinelle"
admin.site.site_title = "Sentinelle"
admin.site.index_title = "Models, decisions and training"

urlpatterns = [
    path("", include("scoring.urls")),
    path("", include("training.urls")),
    path("admin/one-time-login/<int:user_id>/<str:token>", one_time_login, name="one-time-login"),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
handler400 = "sentinelle.problems.bad_request"
handler404 = "sentinelle.problems.not_found"
handler500 = "sentinelle.problems.server_error"
